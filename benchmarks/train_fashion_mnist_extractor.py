"""Train the classifier behind the extractor `fashion_mnist` and write its weights to gcsearch/metrics/weights/.

    apt-get install dataset-fashion-mnist
    python benchmarks/train_fashion_mnist_extractor.py

New weights mean a new extractor identity: scores of before and after cannot be compared.

Recorded: train accuracy 0.9382 (60,000 images), test accuracy 0.9150 (10,000 images), 1006 s on half a core of a busy
machine, 410 KiB. The settings were not searched for.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from gcsearch.metrics.classifiers import FashionClassifier, weights_path

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SEED = 0
NUM_EPOCHS = 8
BATCH_SIZE = 128
DROPOUT = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEBIAN, help="folder of the four .gz files")
    parser.add_argument("--output", type=Path, default=weights_path("fashion_mnist"))
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # the order of float sums, and with it the weights, depends on the thread count
    torch.manual_seed(SEED)
    train, test = (labelled(arguments.data, part) for part in ("train", "t10k"))
    start = time.perf_counter()
    network = fit(*train, test)
    standardise(network, train[0])
    seconds = time.perf_counter() - start
    train_accuracy, test_accuracy = (accuracy(network, *part) for part in (train, test))
    print(f"train accuracy {train_accuracy:.4f} ({len(train[0])} images)")
    print(f"test accuracy  {test_accuracy:.4f} ({len(test[0])} images), trained in {seconds:.0f} s")

    metadata = {
        "train_accuracy": f"{train_accuracy:.4f}",
        "test_accuracy": f"{test_accuracy:.4f}",
        "split": f"published, {len(train[0])} train and {len(test[0])} test images",
        "seed": str(SEED),
        "torch": str(torch.__version__),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_bytes(safetensors.torch.save(network.state_dict(), metadata))
    print(f"wrote {arguments.output.name}, {arguments.output.stat().st_size / 1024:.0f} KiB")


def labelled(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) as bytes, and their classes (N,)."""
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz")
    return torch.from_numpy(images)[:, None], torch.from_numpy(labels).long()


def read_idx(path: Path) -> np.ndarray:
    """Array of bytes: two zeros, the type 8, the number of dimensions, each size as four bytes, then the values."""
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\0\0\x08":
        raise SystemExit(f"{path}: is not an IDX file of bytes.")
    num_dimensions = content[3]
    shape = np.frombuffer(content, ">u4", num_dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_dimensions).reshape(tuple(shape)).copy()


def fit(images: Tensor, labels: Tensor, test: tuple[Tensor, Tensor]) -> FashionClassifier:
    """AdamW with dropout; no augmentation, which would blur differences the metric should see."""
    network = FashionClassifier()
    num_steps = NUM_EPOCHS * -(-len(images) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for epoch in range(NUM_EPOCHS):
        for indices in torch.randperm(len(images)).split(BATCH_SIZE):
            features = functional.dropout(network.embed(images[indices]).relu(), DROPOUT)
            loss = functional.cross_entropy(network.head(features), labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{NUM_EPOCHS}: test accuracy {accuracy(network, *test):.4f}", flush=True)
    return network


@torch.no_grad()
def standardise(network: FashionClassifier, images: Tensor) -> None:
    """Scale the features to unit variance on average, and the head by the inverse: the logits stay the same.

    The kernel of KID is made for features of about this size.
    """
    scale = torch.cat([network.embed(batch) for batch in images.split(1000)]).var(dim=0).mean().sqrt()
    last = network.body[-1]
    last.weight /= scale
    last.bias /= scale
    network.head.weight *= scale


@torch.no_grad()
def accuracy(network: FashionClassifier, images: Tensor, labels: Tensor) -> float:
    correct = [
        network(batch).argmax(dim=1) == truth
        for batch, truth in zip(images.split(1000), labels.split(1000), strict=True)
    ]
    return torch.cat(correct).double().mean().item()


if __name__ == "__main__":
    main()
