"""Images edited with a trained model: see `gcsearch.science.editing`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gcsearch.config import build
from gcsearch.errors import ConfigError
from gcsearch.export.model import LoadedModel
from gcsearch.science.editing import Edit, edit, interpolated_latents
from gcsearch.science.images import to_bytes, to_unit_range
from gcsearch.science.randomness import evaluation_latents
from gcsearch.science.samplers import Sampler
from gcsearch.science.shapes import ByteImages

BATCH_SIZE = 500


@dataclass(frozen=True, kw_only=True)
class Edited:
    """Images and what was made of them, uint8 (N, C, H, W).

    Attributes:
        references: The given images.
        seen: What the model saw of them.
        images: The edited ones.
        num_evaluations: Network evaluations per image.
    """

    references: Tensor
    seen: Tensor
    images: Tensor
    num_evaluations: int


def edited(
    model: LoadedModel,
    references: ByteImages,
    rule: Edit | Mapping[str, Any] | str,
    *,
    steps: int | None = None,
    levels: Sequence[float] | None = None,
    seed: int | None = None,
) -> Edited:
    """Edit images. Image i depends on the reference, the seed and i only.

    Args:
        model: Trained on images like these.
        references: The images.
        rule: An edit, as its name or as a mapping with its fields, e.g. ``{"name": "superres", "factor": 4}``.
        steps: Network evaluations; by default the edit's own number. Ignored if `levels` are given.
        levels: Levels of the evaluations after the first, decreasing.
        seed: Of the noise. Default: that of the evaluations in training.

    Raises:
        ConfigError: The edit does not fit the images or the model.
    """
    rule = rule if isinstance(rule, Edit) else build("edit", dict(rule) if isinstance(rule, Mapping) else rule)
    if tuple(references.shape[1:]) != tuple(model.experiment.data.event_shape):
        raise ConfigError(
            f"edit {rule.name}: images must have the shape {tuple(model.experiment.data.event_shape)} that the model "
            f"draws, got {tuple(references.shape[1:])}."
        )
    if steps is not None and steps < 1:
        raise ConfigError(f"steps must be at least 1, got {steps}.")
    process, source = model.experiment.process, model.experiment.data.draw_source
    chosen_seed = model.experiment.evaluation.seed if seed is None else seed
    seen, images = [], []
    try:
        rule.check(model.experiment.data.event_shape)
        chosen = rule.levels(process, steps) if levels is None else tuple(levels)
        for first in range(0, len(references), BATCH_SIZE):
            batch = to_unit_range(references[first : first + BATCH_SIZE]).to(model.device)
            latents = partial(evaluation_latents, chosen_seed, first, first + len(batch), source)

            def noise(stage: int, latents: Any = latents) -> Tensor:
                drawn: Tensor = latents(stage).to(model.device)
                return drawn

            seen.append(to_bytes(rule.seen(process, batch, noise(0))).cpu())
            images.append(to_bytes(edit(model.function, rule, batch, noise, chosen)).cpu())
    except ValueError as error:
        raise ConfigError(f"edit {rule.name}: {error}.") from None
    return Edited(
        references=references, seen=torch.cat(seen), images=torch.cat(images), num_evaluations=1 + len(chosen)
    )


def interpolated(model: LoadedModel, num: int, columns: int, *, sampler: Sampler, seed: int | None = None) -> Tensor:
    """Samples on the way between latents, `columns` from one to the next: uint8 (num, C, H, W), or points.

    Args:
        model: What draws.
        num: Samples; the last row is cut off.
        columns: Samples per row, both ends included; at least 2.
        sampler: How.
        seed: Of the latents. Default: that of the evaluations in training.
    """
    data = model.experiment.data
    chosen_seed = model.experiment.evaluation.seed if seed is None else seed
    rows = math.ceil(num / columns)

    def noise(stage: int) -> Tensor:
        # The noise of later stages is the same along a row, so that nothing but the latents changes on the way.
        ends = evaluation_latents(chosen_seed, 0, 2 * rows, data.draw_source, stage)
        if stage == 0:
            return interpolated_latents(ends[::2], ends[1::2], columns)[:num].to(model.device)
        return ends[::2].repeat_interleave(columns, dim=0)[:num].to(model.device)

    with torch.no_grad():
        output = sampler(model.function, noise)
    return (to_bytes(output) if len(data.event_shape) == 3 else output.float()).cpu()
