"""Figures of scores over training: by arm, by cost, of the finalists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gcsearch.analysis.importance import MANY, is_range
from gcsearch.analysis.report.drawing import (
    COLORS,
    DASHES,
    MARKERS,
    Picture,
    grid,
    new_figure,
    set_scale,
    short_number,
    shorten,
)
from gcsearch.analysis.results import StudyResults
from gcsearch.analysis.wording import metric_title, parameters_text
from gcsearch.ledger import TrialRecord
from gcsearch.statistics import t_interval
from gcsearch.tracking.names import short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_ARMS: Final = len(COLORS)
NUM_PARTS: Final = 3
"""Arms into which the range of a number is cut."""

MAX_FINALISTS: Final = len(COLORS)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Trials that share a value of one parameter.

    Attributes:
        label: The value, or the range of values.
        records: The trials.
    """

    label: str
    records: tuple[TrialRecord, ...]


def arms(results: StudyResults, key: str) -> list[Arm]:
    """Trials of the search by the value of a parameter.

    The range of a number is cut into three parts of equally many trials. Of more options than there are colours, the
    rarest share one arm; trials without the parameter are left out.
    """
    records = [record for record in results.searched() if key in record.params]
    name = short_names([*results.keys, key])[key]
    values = [record.params[key] for record in records]
    if is_range(values) and len(set(values)) >= MANY:
        order = np.argsort(values, kind="stable")
        parts = [[records[index] for index in part] for part in np.array_split(order, NUM_PARTS)]
        ends = [(part[0].params[key], part[-1].params[key]) for part in parts]
        return [
            Arm(label=f"{name} {short_number(low)} to {short_number(high)}", records=tuple(part))
            for (low, high), part in zip(ends, parts, strict=True)
        ]
    groups: dict[str, list[TrialRecord]] = {}
    for record, value in zip(records, values, strict=True):
        groups.setdefault(str(value), []).append(record)
    common = sorted(groups, key=lambda value: -len(groups[value]))[: MAX_ARMS - (len(groups) > MAX_ARMS)]
    found = [
        Arm(label=f"{name} {shorten(value)}", records=tuple(groups[value])) for value in sorted(common, key=_by_number)
    ]
    rest = tuple(record for value in groups if value not in common for record in groups[value])
    return [*found, Arm(label=f"{name}: {len(groups) - len(common)} others", records=rest)] if rest else found


def _by_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return math.inf, text


def curves_by_arm(results: StudyResults, key: str | None) -> Picture | None:
    """Scores over images seen, coloured by the value of a parameter."""
    shown = _drawn(results, key)
    if not shown:
        return None
    figure = new_figure(6.8, 4.0)
    axes = figure.subplots()
    _draw_arms(axes, results, shown, None)
    axes.set_xlabel("images seen (thousands)")
    axes.set_ylabel(metric_title(results))
    axes.set_xlim(left=0)
    figure.legend(loc="outside lower center", ncols=min(3, len(shown)))
    return Picture(
        name="curves_by_arm",
        title=f"{metric_title(results)} over training" + ("" if key is None else f", by {key}"),
        caption=(
            "A thin line is one trial of the search, one training with one seed. A thick line is the best score of its "
            "arm at each rung; an arm with more trials has more chances. A cross is where a trial diverged; a line "
            "that ends early was stopped."
        ),
        figure=figure,
    )


def _drawn(results: StudyResults, key: str | None) -> list[Arm]:
    """Arms that have a result to draw; one of all trials without a parameter."""
    found = [Arm(label="all trials", records=tuple(results.searched()))] if key is None else arms(results, key)
    return [arm for arm in found if any(_points(results, record, None) for record in arm.records)]


def _points(results: StudyResults, record: TrialRecord, cost: str | None) -> list[tuple[float, float]]:
    """Cost and score at each rung of a trial; without a cost, thousands of images."""
    return [
        (result.images / 1000 if cost is None else result.metrics[cost], result.metrics[results.metric])
        for result in record.results
        if results.metric in result.metrics and (cost is None or cost in result.metrics)
    ]


def _draw_arms(axes: Axes, results: StudyResults, shown: Sequence[Arm], cost: str | None, scale: float = 1.0) -> None:
    from matplotlib.collections import LineCollection

    grid(axes)
    lines = [
        (np.asarray([(place * scale, value) for place, value in points]), COLORS[index], record.state == "diverged")
        for index, arm in enumerate(shown)
        for record in arm.records
        if (points := _points(results, record, cost))
    ]
    # In a random order, so that no arm covers the others.
    lines = [lines[index] for index in np.random.default_rng(0).permutation(len(lines))]
    alpha = min(0.6, max(0.2, 15 / len(lines))) if lines else 1.0
    colors = [color for _, color, _ in lines]
    axes.add_collection(LineCollection([line for line, *_ in lines], colors=colors, linewidths=0.8, alpha=alpha))
    ends = np.asarray([line[-1] for line, *_ in lines]).reshape(-1, 2)
    axes.scatter(ends[:, 0], ends[:, 1], s=6, c=colors, alpha=alpha, linewidths=0)
    gone = [(line[-1], color) for line, color, is_diverged in lines if is_diverged]
    if gone:
        places = np.asarray([end for end, _ in gone])
        axes.scatter(places[:, 0], places[:, 1], marker="x", c=[color for _, color in gone], s=28)
    for index, arm in enumerate(shown):
        color, label = COLORS[index], f"{arm.label} (n = {len(arm.records)})"
        if cost is not None:
            axes.plot([], [], color=color, linewidth=1.8, label=label)
        elif best := _best_at_rungs(results, arm):
            look: dict[str, Any] = {"marker": MARKERS[index], "linestyle": DASHES[index]}
            axes.plot(*zip(*best, strict=True), color=color, linewidth=1.8, markersize=4, label=label, **look)
    set_scale(axes.yaxis, [float(value) for line, *_ in lines for value in line[:, 1]])
    axes.autoscale_view()


def _best_at_rungs(results: StudyResults, arm: Arm) -> list[tuple[float, float]]:
    at: dict[float, list[float]] = {}
    for record in arm.records:
        for place, value in _points(results, record, None):
            at.setdefault(place, []).append(value)
    best = min if results.lower_is_better else max
    return [(place, best(at[place])) for place in sorted(at)]


def curves_by_cost(results: StudyResults, key: str | None) -> Picture | None:
    """Scores over training time and over network evaluations, with the best that each cost has bought."""
    records = results.searched()
    seconds = [place for record in records for place, _ in _points(results, record, "cost/train_seconds")]
    units = [place for record in records for place, _ in _points(results, record, "cost/forward_units")]
    unit, divisor = _time_unit(max(seconds, default=0.0))
    count, size = ("millions", 1e6) if max(units, default=0.0) >= 1e6 else ("thousands", 1e3)
    panels = [
        (cost, label, scale)
        for cost, label, scale, costs in (
            ("cost/train_seconds", f"training time ({unit})", 1 / divisor, seconds),
            ("cost/forward_units", f"network evaluations ({count} of forward passes)", 1 / size, units),
        )
        if any(costs)
    ]
    shown = _drawn(results, key)
    if not panels or not shown:
        return None
    figure = new_figure(3.6 * len(panels) + 1.2, 3.7)
    figure.set_layout_engine("constrained", wspace=0.07)
    places = figure.subplots(1, len(panels), squeeze=False, sharey=True)
    for axes, (cost, label, scale) in zip(places.flat, panels, strict=True):
        _draw_arms(axes, results, shown, cost, scale)
        front = pareto_front(results, cost)
        longest = max(place for record in results.searched() for place, _ in _points(results, record, cost))
        axes.plot(
            [*(place * scale for place, _ in front), longest * scale],
            [*(value for _, value in front), front[-1][1]],
            drawstyle="steps-post",
            color="black",
            linewidth=1.5,
            label="best at this cost or less",
        )
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
    places.flat[0].set_ylabel(metric_title(results))
    handles, labels = places.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return Picture(
        name="curves_by_cost",
        title=f"{metric_title(results)} against what training cost",
        caption=(
            "Left, seconds of training on this study's machine, evaluation not counted; right, what does not depend on "
            "the machine: one network evaluation is one forward pass for one image, and a forward pass with its "
            "gradient counts as three. The black line is the Pareto front: the best score that any trial had for that "
            "cost or less."
        ),
        figure=figure,
    )


def pareto_front(results: StudyResults, cost: str) -> list[tuple[float, float]]:
    """Results of the search that nothing cheaper beats, by increasing cost.

    Args:
        results: The study.
        cost: Metric that says what a trial has cost up to a result.
    """
    points = sorted(point for record in results.searched() for point in _points(results, record, cost))
    front: list[tuple[float, float]] = []
    for place, value in points:
        if not front or (value < front[-1][1] if results.lower_is_better else value > front[-1][1]):
            front.append((place, value))
    return front


def _time_unit(seconds: float) -> tuple[str, float]:
    if seconds >= 3 * 3600:
        return "hours", 3600.0
    return ("minutes", 60.0) if seconds >= 300 else ("seconds", 1.0)


def finalists_figure(results: StudyResults) -> Picture | None:
    """Mean score of each finalist recipe over its seeds: over training with a band, or at its end with a bar."""
    selection = results.selection
    recipes = [
        recipe
        for recipe in (selection.recipes if selection is not None else ())
        if any(_points(results, record, None) for record in recipe.records)
    ][:MAX_FINALISTS]
    if selection is None or not recipes:
        return None
    curves = [_over_seeds(results, recipe.records) for recipe in recipes]
    labels = [
        f"{'winner: ' if recipe is selection.winner else ''}{recipe.candidate}, "
        f"{shorten(parameters_text(results.state.trials[recipe.candidate].params, results.keys), 76)}"
        for recipe in recipes
    ]
    is_over_training = max(map(len, curves)) > 1
    figure = new_figure(6.8, 3.4 + 0.18 * len(recipes) if is_over_training else 1.0 + 0.42 * len(recipes))
    axes = figure.subplots()
    grid(axes)
    if is_over_training:
        _draw_bands(axes, results, curves, labels)
        figure.legend(loc="outside lower center", ncols=1)
    else:
        _draw_bars(axes, results, curves, labels)
    form = "a band; dots are single trainings" if is_over_training else "a bar; small dots are single trainings"
    return Picture(
        name="finalists",
        title="The best recipes on fresh seeds",
        caption=(
            f"Mean over seeds that the search has not seen, with the 95 % t interval of the mean as {form}. Their "
            "scores may rest on more samples than the search's and are not compared with those."
        ),
        figure=figure,
    )


Seeds = list[tuple[float, list[float]]]
"""Scores of a recipe's seeds at each rung, in thousands of images."""


def _over_seeds(results: StudyResults, records: Sequence[TrialRecord]) -> Seeds:
    """Rungs that as many seeds as possible have reached: a mean over others would jump where one is missing."""
    at: dict[float, list[float]] = {}
    for record in records:
        for place, value in _points(results, record, None):
            at.setdefault(place, []).append(value)
    most = max(map(len, at.values()))
    return [(place, at[place]) for place in sorted(at) if len(at[place]) == most]


def _draw_bands(axes: Axes, results: StudyResults, curves: Sequence[Seeds], labels: Sequence[str]) -> None:
    values = [value for curve in curves for _, seeds in curve for value in seeds]
    least = min(values) / 2 if min(values) > 0 else -math.inf  # a logarithmic axis has no place for a band below 0
    bottom, top = min(values) / 1.15, max(values) * 1.15
    for index, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        places, color = [place for place, _ in curve], COLORS[index]
        intervals = [t_interval(seeds) for _, seeds in curve]
        look: dict[str, Any] = {"color": color, "marker": MARKERS[index], "linestyle": DASHES[index]}
        name = f"{label} (n = {len(curve[0][1])})"
        axes.plot(places, [one.mean for one in intervals], linewidth=1.6, markersize=4, label=name, **look)
        bounds = [(one.low, one.high) for one in intervals if one.low is not None and one.high is not None]
        if len(bounds) == len(places):
            lows, highs = [max(low, least) for low, _ in bounds], [high for _, high in bounds]
            # A band of two seeds may be many times as wide as all that was measured: it goes over the edge.
            bottom, top = min([bottom, *lows]), max(top, min(max(highs), 2 * max(values)))
            axes.fill_between(places, lows, highs, color=color, alpha=0.18, linewidth=0)
        across = [place for place, seeds in curve for _ in seeds]
        axes.scatter(across, [one for _, seeds in curve for one in seeds], s=7, color=color, alpha=0.6, linewidths=0)
    set_scale(axes.yaxis, values)
    if min(values) > 0:
        axes.set_ylim(bottom / 1.03, top * 1.03)
    axes.set_xlim(0, int(results.state.study["horizon_images"]) / 1000 * 1.02)
    axes.set_xlabel("images seen (thousands)")
    axes.set_ylabel(metric_title(results))


def _draw_bars(axes: Axes, results: StudyResults, curves: Sequence[Seeds], labels: Sequence[str]) -> None:
    for index, curve in enumerate(curves):
        _, seeds = curve[-1]
        interval, color = t_interval(seeds), COLORS[index]
        error = None if interval.high is None else interval.high - interval.mean
        axes.errorbar([interval.mean], [index], xerr=error, marker=MARKERS[index], markersize=6, capsize=4, color=color)
        axes.scatter(seeds, [index + 0.22] * len(seeds), s=9, color=color, alpha=0.7, linewidths=0)
        axes.annotate(
            f"{labels[index]} (n = {len(seeds)})",
            (0, index),
            xycoords=("axes fraction", "data"),
            xytext=(4, 9),
            textcoords="offset points",
            fontsize=7.5,
        )
    axes.set_yticks([])
    axes.spines.left.set_visible(False)
    axes.set_ylim(len(curves) - 0.5, -0.75)
    axes.set_xlabel(metric_title(results))
