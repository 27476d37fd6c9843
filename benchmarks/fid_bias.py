"""How far a finite number of samples moves FID: the bias against N, in the feature spaces of ours.

    python benchmarks/fid_bias.py                       # digits
    gcsearch data prepare fashion_mnist && python benchmarks/fid_bias.py fashion_mnist

Features are drawn from the Gaussian fit of the data's own features, so the true distance is 0 and what is measured is
bias. Prints a table of the mean over the repeats, with its standard error, and one line of JSON.
"""

from __future__ import annotations

import argparse
import json

import torch

from gcsearch.config import build
from gcsearch.files import default_cache_dir
from gcsearch.metrics import reference_features
from gcsearch.metrics.fid import FID

COUNTS = (500, 1_000, 2_000, 5_000, 10_000, 50_000)
REPEATS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="digits")
    arguments = parser.parse_args()

    dataset = build("data", arguments.data)
    extractor = build("extractor", dataset.default_extractor)
    examples = dataset.load()
    reference = reference_features(extractor, examples.values, examples.sha256, "cpu", default_cache_dir())
    generator = torch.Generator().manual_seed(0)
    rows = []
    for count in COUNTS:
        scores = []
        for _ in range(REPEATS):
            normal = torch.randn(count, len(reference.mean), generator=generator, dtype=torch.float64)
            scores.append(FID().compute((reference.mean + normal @ reference.root).float(), reference))
        row = {"num_samples": count}
        for key in ("fid", "fid_debiased"):
            values = torch.tensor([score[key] for score in scores])
            row |= {key: values.mean().item(), f"{key}_error": (values.std() / REPEATS**0.5).item()}
        rows.append(row)

    print(f"{'samples':>8}  {'fid':>18}  {'fid_debiased':>18}    ({arguments.data}, {REPEATS} repeats)")
    for row in rows:
        values = "  ".join(f"{row[key]:9.4f} +- {row[f'{key}_error']:.4f}" for key in ("fid", "fid_debiased"))
        print(f"{row['num_samples']:>8}  {values}")
    print(json.dumps({"data": arguments.data, "extractor": extractor.identity, "rows": rows}))


if __name__ == "__main__":
    main()
