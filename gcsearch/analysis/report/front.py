"""Figures of several objectives: the trials of the search, and the means of the recipes that were trained again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from gcsearch.analysis.report.drawing import COLORS, GREY, Picture, grid, new_figure, set_scale
from gcsearch.analysis.results import StudyResults
from gcsearch.analysis.wording import objective_title
from gcsearch.fronts import values_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_NAMES = 12
"""Members of the front that are named beside their points; more would cover each other."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """What is drawn.

    Attributes:
        name: Number of the trial.
        values: Its objectives.
        errors: Half the width of the interval of each, or none.
        is_first: Whether it is on the front.
    """

    name: str
    values: tuple[float, ...]
    errors: tuple[float, ...] | None
    is_first: bool


def front_figure(results: StudyResults) -> Picture | None:
    """Completed trials by their objectives, the front connected; None with one objective, or without such trials."""
    if not results.has_front:
        return None
    points = [
        Point(
            name=row.record.trial,
            values=tuple(value for value in values_of(row.record, results.objectives) if value is not None),
            errors=None,
            is_first=row.front == 1,
        )
        for row in results.rows()
        if row.front is not None
    ]
    return _picture(
        results,
        points,
        name="front",
        title="Trials by all objectives",
        caption=(
            "A dot is a full-length trial of the search, one training with one seed. No trial is as good as one of "
            "the front in all objectives and better in one; a line bounds what the front dominates. The front of "
            "single trainings flatters: it collects the lucky ones."
        ),
    )


def front_of_finalists_figure(results: StudyResults) -> Picture | None:
    """Means over fresh seeds with their intervals; None without such, or with one objective."""
    selection = results.selection
    if not results.has_front or selection is None:
        return None
    points = []
    for recipe in selection.recipes:
        intervals = recipe.intervals
        if recipe.is_complete and intervals:
            errors = tuple(0.0 if one.high is None else one.high - one.mean for one in intervals)
            values = tuple(one.mean for one in intervals)
            is_first = recipe.candidate in selection.front
            points.append(Point(name=recipe.candidate, values=values, errors=errors, is_first=is_first))
    return _picture(
        results,
        points,
        name="front_of_finalists",
        title="The recipes of the front on fresh seeds",
        caption=(
            "A dot is the mean over seeds that the search has not seen, with its 95 % t interval in each objective. "
            "The scores may rest on more samples than the search's and are not compared with those."
        ),
    )


def _picture(results: StudyResults, points: Sequence[Point], *, name: str, title: str, caption: str) -> Picture | None:
    if not points:
        return None
    pairs = list(combinations(range(len(results.objectives)), 2))
    columns = min(2, len(pairs))
    lines = -(-len(pairs) // columns)
    figure = new_figure(6.8, 4.0 if columns == 1 else 3.0 * lines + 0.3)
    places = list(figure.subplots(lines, columns, squeeze=False).flat)
    for (up, across), axes in zip(pairs, places, strict=False):
        _draw(axes, results, points, across, up)
    for axes in places[len(pairs) :]:
        axes.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return Picture(name=name, title=title, caption=caption, figure=figure)


def _draw(axes: Axes, results: StudyResults, points: Sequence[Point], across: int, up: int) -> None:
    """One pair of objectives: the first of the two goes up."""
    grid(axes)
    first = sorted((point for point in points if point.is_first), key=lambda point: point.values[across])
    rest = [point for point in points if not point.is_first]
    for index, axis in ((across, axes.xaxis), (up, axes.yaxis)):
        set_scale(axis, [point.values[index] for point in points])
        objective = results.objectives[index]
        arrow = "lower" if objective["goal"] == "minimize" else "higher"
        axis.set_label_text(f"{objective_title(results, objective)}, {arrow} is better")
    for group, color, size, label in ((rest, GREY, 14, "others"), (first, COLORS[0], 34, "front")):
        if not group:
            continue
        places = [point.values[across] for point in group], [point.values[up] for point in group]
        axes.scatter(*places, s=size, color=color, label=label, zorder=3)
        if group[0].errors is not None:
            errors = [[(point.errors or ())[index] for point in group] for index in (across, up)]
            axes.errorbar(*places, xerr=errors[0], yerr=errors[1], linestyle="none", color=color, capsize=3, zorder=2)
    if len(results.objectives) == 2 and first:  # of three, the front seen from one side is no line
        is_lower = results.objectives[across]["goal"] == "minimize"
        xs, ys = [point.values[across] for point in first], [point.values[up] for point in first]
        axes.step(xs, ys, where="post" if is_lower else "pre", color=COLORS[0], linewidth=1.0, zorder=1)
    for point in first[:MAX_NAMES]:
        at = point.values[across], point.values[up]
        axes.annotate(point.name, at, textcoords="offset points", xytext=(4, 4), fontsize=7)
