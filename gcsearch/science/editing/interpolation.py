"""From one image to another by way of their latents."""

from __future__ import annotations

import torch
from torch import Tensor

from gcsearch.science.shapes import Batch


def interpolated_latents(first: Batch, last: Batch, num: int) -> Tensor:
    """Latents on the way from one to another, both included, pair after pair.

    slerp(w) = sin((1 - w) theta) / sin(theta) z_0 + sin(w theta) / sin(theta) z_1, theta the angle between z_0 and z_1

    so that in many dimensions those between are as long as the ends, like normal noise. For parallel ends it is a
    straight line.

    Args:
        first: z_0 of each pair, (P, *event).
        last: z_1.
        num: Latents per pair, at least 2.

    Returns:
        (P num, *event).

    Source: Shoemake 1985 (slerp); CM Appendix D for its use.
    """
    flat, other = first.flatten(1).double(), last.flatten(1).double()
    cosine = torch.nn.functional.cosine_similarity(flat, other, dim=1, eps=1e-12).clamp(-1, 1)
    theta = torch.arccos(cosine)[:, None]
    weights = torch.linspace(0, 1, num, dtype=torch.float64, device=first.device)[None]
    sine = torch.sin(theta)
    is_flat = sine < 1e-6
    safe = torch.where(is_flat, torch.ones_like(sine), sine)
    start = torch.where(is_flat, 1 - weights, torch.sin((1 - weights) * theta) / safe)
    end = torch.where(is_flat, weights, torch.sin(weights * theta) / safe)
    between = start[..., None] * flat[:, None] + end[..., None] * other[:, None]
    return between.to(first.dtype).reshape(len(first) * num, *first.shape[1:])
