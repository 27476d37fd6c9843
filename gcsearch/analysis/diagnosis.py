"""Statistics of a diagnosis over seeds: means with intervals, curves, and the difference that generation makes."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, Literal

import numpy as np
import torch

from gcsearch.statistics import Interval, t_interval
from gcsearch.training.diagnosis import COUPLINGS, Diagnosis, Row
from gcsearch.training.pretrained import weights_sha256

SHORT_NAMES: Final = {"independent": "IC", "ot": "OT", "generator": "GC"}
Axis = Literal["images", "sigma"]

SUMMARIES: Final[tuple[tuple[str, Axis], ...]] = (
    ("gradient_variance", "images"),
    ("ode_distance", "images"),
    ("transport_cost", "sigma"),
    ("ode_distance", "sigma"),
    ("path_deviation", "sigma"),
)
"""What a summary says: the mean of a quantity over the evaluations of a training, or over the noise levels."""


EXACT: Final[tuple[str, Axis]] = ("exact_path_deviation", "sigma")
VERSIONS: Final = ("gcsearch", "torch", "numpy", "scipy")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One line of the summary.

    Attributes:
        quantity: See `Row`.
        axis: What was averaged over within a seed: evaluations (``images``) or noise levels (``sigma``).
        couplings: Mean and interval over seeds of each coupling.
        difference: Generator minus independent within each seed; None if one of them was not measured.
        verdict: Whether the generator's value is ``lower`` or ``higher``: the interval of the difference leaves out 0.
            ``unclear`` if it does not, None if there is no difference or no interval.
    """

    quantity: str
    axis: Axis
    couplings: dict[str, Interval]
    difference: Interval | None
    verdict: Literal["lower", "higher", "unclear"] | None


def summarize(rows: Sequence[Row]) -> list[Comparison]:
    """One comparison for each entry of `SUMMARIES` that was measured."""
    comparisons = []
    for quantity, axis in SUMMARIES:
        values = {name: found for name in COUPLINGS if (found := _per_seed(rows, quantity, name, axis))}
        if values:
            difference = _difference(values.get("generator", {}), values.get("independent", {}))
            comparisons.append(
                Comparison(
                    quantity=quantity,
                    axis=axis,
                    couplings={name: t_interval(list(seeds.values())) for name, seeds in values.items()},
                    difference=difference,
                    verdict=_verdict(difference),
                )
            )
    return comparisons


def curve(rows: Sequence[Row], quantity: str, coupling: str, axis: Axis) -> list[tuple[float, Interval]]:
    """Mean over seeds at every number of images or noise level, in increasing order."""
    points: dict[float, list[float]] = {}
    for row in rows:
        place = getattr(row, axis)
        if row.quantity == quantity and row.coupling == coupling and place is not None:
            points.setdefault(float(place), []).append(row.value)
    return [(place, t_interval(points[place])) for place in sorted(points)]


def exact_independent(rows: Sequence[Row]) -> tuple[float, float] | None:
    """R of independent coupling by its denoiser and by the closed form, means over seeds and levels; None without one.

    How far they are apart is the error of the denoisers, which only ever raises R.
    """
    learned = _per_seed(rows, "path_deviation", "independent", "sigma")
    exact = _per_seed(rows, "exact_path_deviation", "independent", "sigma")
    if not exact:
        return None
    return float(np.mean(list(learned.values()))), float(np.mean(list(exact.values())))


def diagnosis_document(diagnosis: Diagnosis, rows: Sequence[Row], target: str) -> dict[str, Any]:
    """Everything about a diagnosis as plain data: what was measured on what, the summary, curves and all rows.

    Args:
        diagnosis: What measured the rows.
        rows: All arms.
        target: What the user named, an experiment or a file of weights.
    """
    weights = diagnosis.weights
    curves = [
        {"quantity": quantity, "coupling": coupling, axis: place, **dataclasses.asdict(interval)}
        for quantity, axis in (*SUMMARIES, EXACT)
        for coupling in COUPLINGS
        for place, interval in curve(rows, quantity, coupling, axis)
    ]
    return {
        "target": target,
        "kind": "training" if weights is None else "weights",
        "experiment": diagnosis.experiment.to_dict(),
        "fingerprint": diagnosis.experiment.fingerprint,
        "weights_sha256": None if weights is None else weights_sha256(weights.network),
        "settings": dataclasses.asdict(diagnosis.settings),
        "couplings": [name for name in COUPLINGS if any(row.coupling == name for row in rows)],
        "seeds": sorted({row.seed for row in rows}),
        "ode_flow": "denoiser" if diagnosis.exact_flow is None else "exact",
        "num_threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONS},
        "summary": [dataclasses.asdict(comparison) for comparison in summarize(rows)],
        "curves": curves,
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def _per_seed(rows: Sequence[Row], quantity: str, coupling: str, axis: Axis) -> dict[int, float]:
    """Mean over the axis, for each seed; given weights have one value without images."""
    values: dict[int, list[float]] = {}
    for row in rows:
        if row.quantity == quantity and row.coupling == coupling and (row.sigma is None) == (axis == "images"):
            values.setdefault(row.seed, []).append(row.value)
    return {seed: float(np.mean(found)) for seed, found in values.items()}


def _difference(one: dict[int, float], other: dict[int, float]) -> Interval | None:
    shared = [seed for seed in one if seed in other]
    return t_interval([one[seed] - other[seed] for seed in shared]) if shared else None


def _verdict(difference: Interval | None) -> Literal["lower", "higher", "unclear"] | None:
    if difference is None or difference.low is None or difference.high is None:
        return None
    if difference.high < 0:
        return "lower"
    return "higher" if difference.low > 0 else "unclear"
