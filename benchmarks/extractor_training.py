"""What the scripts that train our extractors share: the loop, the scale of the features, the file of weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LRScheduler

from gcsearch.metrics.classifiers import Classifier

BATCH = 1000
"""Images at once where nothing is trained."""


def fit(
    network: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    num_epochs: int,
    batch_size: int,
    lr: float,
    dropout: float,
    schedule: Callable[[torch.optim.Optimizer, int], LRScheduler],
    after_epoch: Callable[[int], None] = lambda _: None,
) -> None:
    """AdamW with dropout on the features; no augmentation, which would blur differences the metric should see.

    Args:
        network: Changed in place; left ready for inference.
        images: uint8, (N, 1, H, W).
        labels: Classes, (N,).
        num_epochs: Passes over the images.
        batch_size: Images per step.
        lr: Learning rate that `schedule` starts from.
        dropout: Share of the features that are dropped.
        schedule: Makes the schedule from the optimizer and the number of steps.
        after_epoch: Told the number of each finished epoch, with the network ready for inference.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=1e-2)
    rates = schedule(optimizer, num_epochs * -(-len(images) // batch_size))
    for epoch in range(1, num_epochs + 1):
        network.train()
        for indices in torch.randperm(len(images)).split(batch_size):
            features = functional.dropout(network.embed(images[indices]).relu(), dropout)
            loss = functional.cross_entropy(network.head(features), labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
        network.eval()
        after_epoch(epoch)


@torch.no_grad()
def standardise(network: Classifier, images: Tensor) -> None:
    """Scale the features to unit variance on average, and the head by the inverse: the logits stay the same.

    The kernel of KID is made for features of about this size; with raw ones (standard deviation about 4 for the digits)
    its cubes are so large that a few examples decide the value.
    """
    scale = torch.cat([network.embed(batch) for batch in images.split(BATCH)]).var(dim=0).mean().sqrt()
    last = network.body[-1]
    last.weight /= scale
    last.bias /= scale
    network.head.weight *= scale


@torch.no_grad()
def accuracy(network: Classifier, images: Tensor, labels: Tensor) -> float:
    """Share of the images that are put into their class."""
    classes = torch.cat([network(batch).argmax(dim=1) for batch in images.split(BATCH)])
    return (classes == labels).double().mean().item()


def save(network: Classifier, path: Path, metadata: dict[str, str]) -> None:
    """Write the weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors.torch.save(network.state_dict(), metadata | {"torch": str(torch.__version__)}))
    print(f"wrote {path.name}, {path.stat().st_size / 1024:.0f} KiB")
