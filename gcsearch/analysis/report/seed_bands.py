"""Curves of an ablation: the mean of each arm over its seeds, with a band for how well the seeds tell it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gcsearch.ablations import AXES, Axis
from gcsearch.analysis.ablation import AblationResults
from gcsearch.analysis.report.drawing import (
    COLORS,
    DASHES,
    MARKERS,
    Picture,
    grid,
    new_figure,
    set_scale,
    shorten,
)
from gcsearch.analysis.results import StudyResults
from gcsearch.analysis.wording import metric_title
from gcsearch.ledger import TrialRecord
from gcsearch.statistics import Interval, t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REFERENCE: Final = {"color": "#333333", "marker": "x", "linestyle": "-"}
PER_PANEL: Final = len(COLORS)
"""Arms in one panel, besides the reference: more cannot be told apart."""

LETTERS: Final = 44


@dataclass(frozen=True, kw_only=True)
class Point:
    """One evaluation of an arm.

    Attributes:
        cost: Mean over the seeds of what training had used by then.
        score: Mean score with its interval.
        scores: Score of each seed.
    """

    cost: float
    score: Interval
    scores: tuple[float, ...]


def curve(records: Sequence[TrialRecord], key: str, axis: Axis) -> list[Point]:
    """Mean over seeds at every evaluation that as many seeds as possible have reached.

    A mean over fewer seeds would jump where one is missing.
    """
    at: dict[int, list[tuple[float, float]]] = {}
    for record in records:
        for result in record.results:
            if key in result.metrics and (axis == "images" or axis in result.metrics):
                cost = float(result.images) if axis == "images" else result.metrics[axis]
                at.setdefault(result.images, []).append((cost, result.metrics[key]))
    most = max(map(len, at.values()), default=0)
    points = []
    for images in sorted(at):
        if len(at[images]) == most:
            costs, scores = zip(*at[images], strict=True)
            points.append(Point(cost=sum(costs) / most, score=t_interval(scores), scores=scores))
    return points


def arm_records(results: StudyResults, found: AblationResults) -> dict[str, list[TrialRecord]]:
    """Trainings of each arm that have a score, by seed; the reference first."""
    arms: dict[str, list[TrialRecord]] = {arm: [] for arm in found.plan.arms}
    for record in sorted(results.state.trials.values(), key=lambda record: record.seed):
        if record.arm in arms and any(found.plan.key in result.metrics for result in record.results):
            arms[record.arm].append(record)
    return {arm: records for arm, records in arms.items() if records}


def curves_figure(results: StudyResults, found: AblationResults) -> Picture | None:
    """Score over images seen, by arm, with seed bands."""
    return _figure(
        results,
        found,
        ("images",),
        name="curves",
        title=f"{metric_title(results)} over training, by arm",
        caption=(
            "Lines are means over the seeds, bands their 95 % t intervals, dots single trainings. The bands say how "
            "well each mean is known. Whether two arms differ is told better by the differences on the same seeds, "
            "which the verdicts rest on."
        ),
    )


def costs_figure(results: StudyResults, found: AblationResults) -> Picture | None:
    """Score over training time and over network evaluations, by arm, with seed bands."""
    return _figure(
        results,
        found,
        AXES[:0:-1],
        name="curves_by_cost",
        title=f"{metric_title(results)} against what training cost, by arm",
        caption=(
            "The same curves over seconds of training on this machine, evaluation not counted, and over what does not "
            "depend on the machine: one network evaluation is one forward pass for one image, and a forward pass with "
            "its gradient counts as three."
        ),
    )


def _figure(
    results: StudyResults, found: AblationResults, axes_of_cost: Sequence[Axis], *, name: str, title: str, caption: str
) -> Picture | None:
    arms = arm_records(results, found)
    reference, *others = found.plan.arms
    others = [arm for arm in others if arm in arms]
    if not arms:
        return None
    columns = [axis for axis in axes_of_cost if _longest(arms, found.plan.key, axis) > 0]
    if not columns:
        return None
    groups = [others[start : start + PER_PANEL] for start in range(0, len(others), PER_PANEL)] or [[]]
    width = 7.4 if len(columns) == 1 else 4.2 * len(columns)
    figure = new_figure(width, sum(3.3 + 0.2 * -(-(len(group) + 1) // 2) for group in groups))
    parts = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
    for part, group in zip(parts, groups, strict=True):
        drawn = ([reference] if reference in arms else []) + group
        places = part.subplots(1, len(columns), squeeze=False, sharey=True)[0]
        for axes, axis in zip(places, columns, strict=True):
            _draw(axes, {arm: arms[arm] for arm in drawn}, found, axis)
        places[0].set_ylabel(metric_title(results))
        handles, labels = places[0].get_legend_handles_labels()
        part.legend(handles, labels, loc="outside lower center", ncols=2)
    return Picture(name=name, title=title, caption=caption, figure=figure)


def _longest(arms: dict[str, list[TrialRecord]], key: str, axis: Axis) -> float:
    return max((point.cost for records in arms.values() for point in curve(records, key, axis)), default=0.0)


def _draw(axes: Axes, arms: dict[str, list[TrialRecord]], found: AblationResults, axis: Axis) -> None:
    grid(axes)
    curves = {arm: points for arm, records in arms.items() if (points := curve(records, found.plan.key, axis))}
    unit, size = _unit(axis, max(point.cost for points in curves.values() for point in points))
    means = [point.score.mean for points in curves.values() for point in points]
    least = min(means) / 2 if min(means) > 0 else -math.inf  # a logarithmic axis has no place for a band below 0
    others = [arm for arm in arms if arm != found.plan.arms[0]]
    for arm, points in curves.items():
        places = [point.cost / size for point in points]
        look = _look(None if arm not in others else others.index(arm))
        label = f"{shorten(arm, LETTERS)} (n = {points[0].score.num})"
        axes.plot(places, [point.score.mean for point in points], linewidth=1.6, markersize=4, label=label, **look)
        ends = [(point.score.low, point.score.high) for point in points]
        known = [(low, high) for low, high in ends if low is not None and high is not None]
        if len(known) == len(places):
            lows, highs = [max(low, least) for low, _ in known], [high for _, high in known]
            axes.fill_between(places, lows, highs, color=look["color"], alpha=0.15, linewidth=0)
        across = [place for place, point in zip(places, points, strict=True) for _ in point.scores]
        every = [score for point in points for score in point.scores]
        axes.scatter(across, every, s=5, color=look["color"], alpha=0.5, linewidths=0)
    set_scale(axes.yaxis, means)
    if min(means) > 0:
        highest = max(score for points in curves.values() for point in points for score in point.scores)
        axes.set_ylim(min(means) / 1.25, highest * 1.1)
    axes.set_xlim(left=0)
    axes.set_xlabel(unit)


def _look(index: int | None) -> dict[str, Any]:
    """Of an arm by its place among the others, of the reference without one."""
    if index is None:
        return dict(REFERENCE)
    place = index % PER_PANEL
    return {"color": COLORS[place], "marker": MARKERS[place], "linestyle": DASHES[place]}


def _unit(axis: Axis, longest: float) -> tuple[str, float]:
    """What an axis counts, and how much of it is 1."""
    if axis == "images":
        return "images seen (thousands)", 1000.0
    if axis == "cost/forward_units":
        word, size = ("millions", 1e6) if longest >= 1e6 else ("thousands", 1e3)
        return f"network evaluations ({word} of forward passes)", size
    word, size = ("hours", 3600.0) if longest >= 3 * 3600 else ("minutes", 60.0) if longest >= 300 else ("seconds", 1.0)
    return f"training time ({word})", size
