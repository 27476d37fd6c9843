"""What each metric, and its bootstrap, costs beside torch-fidelity's way.

    python benchmarks/metric_costs.py                     # features of the digits: 2,000 x 64 against 1,797 x 64
    python benchmarks/metric_costs.py --inception-size    # random features of Inception's size: 2,000 x 2,048

Recorded (CPU seconds, best of three, one thread of an AMD EPYC, torch 2.15):

                                                digits   Inception's size
    kid, all pairs                               0.088              1.190
      torch-fidelity, 10 subsets                 0.211              1.171
      torch-fidelity, 100 subsets                2.098             11.700
    fid and fid_debiased (3 distances)           0.003              5.775
      torch-fidelity, 1 distance                 0.001              3.950
    precision_recall                             0.205              3.356
    bootstrap of fid, 200 / 2 resamples          0.425             11.209
    bootstrap of kid, 200 / 2 resamples          0.357              1.122
    bootstrap of is, 200 resamples               0.048
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from gcsearch.data.digits import Digits
from gcsearch.metrics.bootstrap import intervals
from gcsearch.metrics.features import DigitsExtractor
from gcsearch.metrics.fid import FID
from gcsearch.metrics.inception_score import InceptionScore
from gcsearch.metrics.kid import KID
from gcsearch.metrics.precision_recall import PrecisionRecall
from gcsearch.metrics.reference import ReferenceFeatures, extract

NUM = 2_000
RESAMPLES = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inception-size", action="store_true")
    is_large = parser.parse_args().inception_size
    torch.set_num_threads(1)
    features, reference = large() if is_large else digits()
    real = reference.features
    _ = reference.root, reference.kernel_mean  # once per process, or once for ever

    size = min(1000, len(features) // 2, len(real) // 2)
    report("kid, all pairs", lambda: KID().compute(features, reference))
    report(f"  torch-fidelity, 10 subsets of {size}", lambda: theirs_kid(features, real, size, 10))
    report(f"  torch-fidelity, 100 subsets of {size}", lambda: theirs_kid(features, real, size, 100))
    report("fid and fid_debiased (3 distances)", lambda: FID().compute(features, reference))
    statistics = fid_features_to_statistics(real.double())
    report("  torch-fidelity, 1 distance", lambda: theirs_fid(features, statistics))
    report("precision_recall", lambda: PrecisionRecall().compute(features, reference))
    scores = FID().compute(features, reference)
    report(
        "interval of fid and fid_debiased",
        lambda: intervals([FID()], scores, features, reference, num_resamples=2, seed=0),
    )
    chosen = torch.randint(NUM, (NUM,), generator=torch.Generator().manual_seed(0))
    report("  one resample of both instead", lambda: FID().compute(features[chosen], reference))
    num = 2 if is_large else RESAMPLES
    for metric in (KID(),) if is_large else (KID(), InceptionScore()):
        scores = metric.compute(features, reference)
        report(
            f"bootstrap of {metric.name}, {num} resamples",
            lambda metric=metric, scores=scores: intervals(
                [metric], scores, features, reference, num_resamples=num, seed=0
            ),
        )


def digits() -> tuple[Tensor, ReferenceFeatures]:
    """Features of 2,000 noisy digits, and of all digits."""
    examples, rng = Digits().load(), torch.Generator().manual_seed(0)
    extractor = DigitsExtractor()
    chosen = examples.values[torch.randint(len(examples), (NUM,), generator=rng)]
    noisy = (chosen + 20 * torch.randn(chosen.shape, generator=rng)).clamp(0, 255).to(torch.uint8)
    real = extract(extractor.load(), examples.values)
    return extract(extractor.load(), noisy), ReferenceFeatures.of(real, examples.sha256, extractor)


def large() -> tuple[Tensor, ReferenceFeatures]:
    """Correlated normal features, 2,000 against 3,000."""
    rng = torch.Generator().manual_seed(0)
    mixing = torch.randn(2048, 2048, generator=rng) / 2048**0.5
    generated, real = (torch.randn(num, 2048, generator=rng) @ mixing for num in (NUM, 3_000))
    return generated + 0.02, ReferenceFeatures.of(real, "0" * 64)


def theirs_kid(features: Tensor, real: Tensor, size: int, num: int) -> Any:
    return kid_features_to_metric(features, real, kid_subset_size=size, kid_subsets=num, rng_seed=2020, verbose=False)


def theirs_fid(features: Tensor, statistics: Any) -> Any:
    return fid_statistics_to_metric(fid_features_to_statistics(features.double()), statistics, False)


def report(name: str, function: Callable[[], Any]) -> None:
    seconds = []
    for _ in range(3):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    print(f"{name:<45} {min(seconds):8.3f}", flush=True)


if __name__ == "__main__":
    main()
