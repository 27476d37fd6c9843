"""Figures of what was varied: parallel coordinates, importance, and scores over one parameter and over two."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gcsearch.analysis.health import range_of
from gcsearch.analysis.importance import Importance, Interaction, common_rung, telling_rungs
from gcsearch.analysis.report.drawing import (
    COLOR_MAP,
    COLORS,
    GREY,
    GRID,
    MARKERS,
    Picture,
    Scale,
    grid,
    new_figure,
    scale_of,
    set_scale,
    shared_legend,
    shorten,
)
from gcsearch.analysis.results import StudyResults
from gcsearch.analysis.wording import images_text, metric_title, objective_title
from gcsearch.config import read_document
from gcsearch.ledger import TrialRecord
from gcsearch.tracking.names import short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_AXES: Final = 11
MAX_PAIRED: Final = 4
"""Parameters in the figure of pairs; their number grows with its square."""

SIGNIFICANT: Final = 0.05
"""Chance, corrected for the number of pairs, below which an interaction is worth a word."""

NONE_AT: Final = -0.13
"""Where on an axis the trials lie that do not have its parameter."""


def important_keys(results: StudyResults, found: Sequence[Importance]) -> list[str]:
    """Parameters with more than one value, the most important first; in the space's order where that is not known."""
    seen = dict.fromkeys(key for record in results.searched() for key in record.params)
    varied = [
        key
        for key in seen
        if len({str(record.params[key]) for record in results.searched() if key in record.params}) > 1
    ]
    first = [one.key for one in found if (one.metric, one.images) == (found[0].metric, found[0].images)]
    return list(dict.fromkeys([*(key for key in first if key in varied), *varied]))


def importance_figure(results: StudyResults, found: Sequence[Importance]) -> Picture | None:
    """Shares of importance with their intervals, a panel for each objective, a colour for each rung."""
    if not found:
        return None
    rungs = list(dict.fromkeys(one.images for one in found))
    keys = list(dict.fromkeys(one.key for one in found))
    names = short_names(keys)
    metrics = list(dict.fromkeys(one.metric for one in found))
    titles = {one["metric"]: objective_title(results, one) for one in results.objectives}
    figure = new_figure(3.2 + 3.0 * len(metrics), 0.9 + 0.36 * len(keys) + 0.2 * (len(metrics) > 1))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        _draw_shares(axes, [one for one in found if one.metric == metric], rungs, keys)
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of importance (%)")
        if results.has_front:
            axes.set_title(f"for {titles[metric]}")
    panels[0].set_yticks(range(len(keys)), [shorten(names[key], 24) for key in keys])
    panels[0].set_ylim(len(keys) - 0.5, -0.5)
    shared_legend(figure, panels, columns=len(rungs))
    return Picture(
        name="importance",
        title="Shares of importance",
        caption=(
            "PED-ANOVA: how much the values of a parameter differ between the best tenth of the trials (at least "
            "five) and all, as a share of all parameters; bars are 95 % bootstrap intervals over trials. At the first "
            "rung nearly all trials are compared; at full length only those that were not stopped, so a parameter that "
            "decides early looks less important there."
        ),
        figure=figure,
    )


def _draw_shares(axes: Axes, found: Sequence[Importance], rungs: Sequence[int], keys: Sequence[str]) -> None:
    axes.grid(visible=True, axis="x", color=GRID, linewidth=0.6)
    for index, images in enumerate(rungs):
        shift = 0.16 * (index - (len(rungs) - 1) / 2) * 2
        shown = [one for one in found if one.images == images]
        if not shown:
            continue
        axes.errorbar(
            [100 * one.share for one in shown],
            [keys.index(one.key) + shift for one in shown],
            # A bootstrap's interval of a share need not hold the share itself; a bar goes to what it does hold.
            xerr=[
                [100 * max(0.0, one.share - one.low) for one in shown],
                [100 * max(0.0, one.high - one.share) for one in shown],
            ],
            linestyle="none",
            marker=MARKERS[index],
            markersize=5,
            capsize=2.5,
            color=COLORS[index],
            label=f"at {images_text(images)} images (n = {max(one.num_trials for one in shown)})",
        )


def parallel_coordinates(results: StudyResults, keys: Sequence[str]) -> Picture | None:
    """Every trial as one line over all parameters and its score."""
    rung = common_rung(results)
    if rung is None or not keys:
        return None
    records = [record for record in results.searched() if record.value_at(results.metric, rung) is not None]
    if len(records) < 2:
        return None
    present = [key for key in keys if any(key in record.params for record in records)]
    shown = _in_order(present[: MAX_AXES - 2], results)
    names = short_names(shown)
    horizon = int(results.state.study["horizon_images"])
    columns = [
        (shorten(names[key], 16), [record.params.get(key) for record in records], _scale(results, key, records))
        for key in shown
    ]
    title = metric_title(results).split(" (")[0]
    for images in dict.fromkeys((rung, horizon)):
        scores = [record.value_at(results.metric, images) for record in records]
        if any(score is not None for score in scores):
            scale = scale_of([score for score in scores if score is not None], options=1)
            columns.append((f"{title} at {images_text(images)}", scores, scale))
    figure = new_figure(max(5.0, 1.02 * len(columns) + 0.9), 4.0)
    axes = figure.subplots()
    paths = np.column_stack(
        [
            _draw_axis(axes, index, name, values, scale, flip=index >= len(shown) and results.lower_is_better)
            for index, (name, values, scale) in enumerate(columns)
        ]
    )
    _draw_lines(figure, axes, results, records, rung, paths)
    axes.set_xlim(-0.35, len(columns) - 0.65)
    axes.set_ylim(-0.2, 1.12)
    axes.axis("off")
    left = ", ".join(present[len(shown) :])
    return Picture(
        name="parallel_coordinates",
        title="All trials at a glance",
        caption=(
            f"A line is a trial, coloured by its rank{_of_first(results)} at {images_text(rung)} images, the last rung "
            "that nearly all trials have reached; the better, the darker and the higher on the axes of scores. Thick "
            "lines are trials that went to full length. “none”: the trial does not have that parameter, or was stopped "
            "before." + (f" Left out, as the least important: {left}." if left else "")
        ),
        figure=figure,
    )


def _of_first(results: StudyResults) -> str:
    """Which objective a figure is about, where there are several."""
    return f" by {metric_title(results)}" if results.has_front else ""


def _in_order(keys: Sequence[str], results: StudyResults) -> list[str]:
    """In the order of the space, what a choice brings along right after it."""
    order = [*results.keys, *keys]

    def place(key: str) -> tuple[int, str]:
        return min(order.index(entry) for entry in order if key == entry or key.startswith(f"{entry}.")), key

    return sorted(keys, key=place)


def _scale(results: StudyResults, key: str, records: Sequence[TrialRecord]) -> Scale:
    """Scale of a parameter, logarithmic where the study's space says so; a simulated study has no file of it."""
    having = [record for record in records if key in record.params]
    path = results.directory / "study.yaml"
    found = range_of(read_document(path).data["space"], key, having[0].params) if path.exists() else None
    return scale_of([record.params[key] for record in having], logarithmic=None if found is None else found[2])


def _draw_axis(
    axes: Axes, index: int, name: str, values: Sequence[Any], scale: Scale, *, flip: bool
) -> Sequence[float]:
    """One vertical axis with its labels; the place of each trial on it."""

    def place(value: Any) -> float:
        if value is None:
            return NONE_AT
        return 1 - scale.place(value) if flip else scale.place(value)

    axes.plot([index, index], [0, 1], color="black", linewidth=0.9, zorder=3)
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
    for tick, label in zip(scale.ticks, scale.labels, strict=True):
        at = 1 - tick if flip else tick
        axes.plot([index - 0.03, index], [at, at], color="black", linewidth=0.9, zorder=3)
        axes.text(index - 0.05, at, label, ha="right", va="center", fontsize=7.5, bbox=box, zorder=4)
    if None in values:
        axes.text(index - 0.05, NONE_AT, "none", ha="right", va="center", fontsize=7.5, color=GREY, bbox=box, zorder=4)
    axes.text(index, 1.06, name, ha="center", va="bottom", fontsize=8.5, fontweight="bold")
    # A little apart, so that trials with the same option do not hide each other.
    width = 0.0 if scale.is_range else 0.035
    shifts = width * (np.random.default_rng(index).random(len(values)) - 0.5)
    return [place(value) + float(shift) for value, shift in zip(values, shifts, strict=True)]


def _draw_lines(
    figure: Figure, axes: Axes, results: StudyResults, records: Sequence[TrialRecord], rung: int, paths: Any
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize

    goodness = _goodness(results, records, rung)
    mapping = ScalarMappable(Normalize(0, 1), COLOR_MAP)
    horizon = int(results.state.study["horizon_images"])
    is_full = np.asarray([record.at(horizon) is not None for record in records])
    order = np.argsort(goodness, kind="stable")  # the best on top
    lines = [np.column_stack([np.arange(paths.shape[1]), paths[index]]) for index in order]
    many = len(records) > 60
    axes.add_collection(
        LineCollection(
            lines,
            colors=[mapping.to_rgba(goodness[index]) for index in order],
            linewidths=[1.6 if is_full[index] and rung != horizon else 0.7 for index in order],
            alpha=[(0.6 if is_full[index] else 0.2) if many else 0.85 for index in order],
            zorder=2,
        )
    )
    bar = figure.colorbar(mapping, ax=axes, shrink=0.75, pad=0.01, aspect=28)
    bar.set_ticks([0, 1], labels=["worst", "best"])
    bar.set_label(f"rank at {images_text(rung)} images", fontsize=8)


def _goodness(results: StudyResults, records: Sequence[TrialRecord], rung: int) -> Any:
    """Rank of each trial's score at a rung, from 0 (worst) to 1 (best)."""
    values = np.asarray([record.value_at(results.metric, rung) for record in records], dtype=np.float64)
    ranks = (-values if results.lower_is_better else values).argsort(kind="stable").argsort(kind="stable")
    return ranks / max(1, len(values) - 1)


def pairs_figure(results: StudyResults, keys: Sequence[str], found: Sequence[Interaction]) -> Picture | None:
    """Scores over each parameter (diagonal) and over each pair (below), for the most important ones."""
    rung = next(iter(telling_rungs(results)), None) or common_rung(results)
    shown = list(keys[:MAX_PAIRED])
    if rung is None or not shown:
        return None
    records = [record for record in results.searched() if record.value_at(results.metric, rung) is not None]
    if len(records) < 2:
        return None
    scores = [record.value_at(results.metric, rung) for record in records]
    names = {key: shorten(name, 20) for key, name in short_names(shown).items()}
    shown = [key for key in shown if any(key in record.params for record in records)]
    scales = {key: _scale(results, key, records) for key in shown}
    places = {key: _coordinates(records, key, scales[key], seed) for seed, key in enumerate(shown)}
    goodness = _goodness(results, records, rung)
    size = len(shown)
    figure = new_figure(1.85 * size + 0.7, 1.7 * size + 0.5)
    matrix = figure.subplots(size, size, squeeze=False)
    last = None
    for row, column in product(range(size), repeat=2):
        axes, up, across = matrix[row, column], shown[row], shown[column]
        if column > row:
            axes.axis("off")
            continue
        axes.tick_params(labelsize=7)
        grid(axes)
        if row == column:
            axes.scatter(places[across], scores, s=_dot(len(records)), color=COLORS[0], alpha=0.6, linewidths=0)
            set_scale(axes.yaxis, [score for score in scores if score is not None])
            axes.yaxis.tick_right()
            axes.yaxis.set_label_position("right")
            axes.set_ylabel(metric_title(results).split(" (")[0], fontsize=7.5)
            axes.spines.left.set_visible(False)
            axes.spines.right.set_visible(True)
        else:
            look: dict[str, Any] = {"cmap": COLOR_MAP, "vmin": 0, "vmax": 1, "linewidths": 0}
            last = axes.scatter(places[across], places[up], c=goodness, s=_dot(len(records)) + 3, **look)
            axes.set_ylim(-0.1, 1.1)
            _set_ticks(axes.yaxis, scales[up], is_labelled=column == 0)
            share = next((one for one in found if {one.first, one.second} == {up, across}), None)
            if share is not None and share.p < SIGNIFICANT:
                axes.set_title(f"interaction: {100 * share.share:.0f} % of variance", fontsize=7, pad=2)
        if column == 0 < row:
            axes.set_ylabel(names[up])
        axes.set_xlim(-0.1, 1.1)
        _set_ticks(axes.xaxis, scales[across], is_labelled=row == size - 1)
        if row == size - 1:
            axes.set_xlabel(names[across])
            axes.tick_params(axis="x", labelrotation=0 if scales[across].is_range else 30)
    if last is not None:
        bar = figure.colorbar(last, cax=matrix[0, size - 1].inset_axes((0.55, 0.1, 0.09, 0.8)))
        bar.set_ticks([0, 1], labels=["worst", "best"])
        bar.ax.tick_params(labelsize=7.5)
    figure.align_labels()
    title = metric_title(results) if results.has_front else "Scores"
    return Picture(
        name="pairs",
        title="Parameters one by one and in pairs",
        caption=(
            f"{title} at {images_text(rung)} images, the last rung that nearly all trials have reached. Diagonal: the "
            "score over one parameter. Below: trials by two parameters, the darker the better their rank; where the "
            "good values of one depend on the other, they interact. A pair whose combination explains more than the "
            "sum of the two effects (F test at 5 %, corrected for the number of pairs) says by how much."
        ),
        figure=figure,
    )


def _coordinates(records: Sequence[TrialRecord], key: str, scale: Scale, seed: int) -> list[float]:
    """Place of each trial's value, NaN without one; trials with the same option lie a little apart."""
    width = 0.0 if scale.is_range else 0.12
    shifts = width * (np.random.default_rng(seed).random(len(records)) - 0.5)
    return [
        scale.place(record.params[key]) + float(shift) if key in record.params else float("nan")
        for record, shift in zip(records, shifts, strict=True)
    ]


def _dot(num: int) -> float:
    return 16.0 if num < 60 else 7.0


def _set_ticks(axis: Any, scale: Scale, *, is_labelled: bool) -> None:
    ticks = scale.ticks[::2] if scale.is_range else scale.ticks
    labels = scale.labels[::2] if scale.is_range else scale.labels
    axis.set_ticks(ticks, labels=labels if is_labelled else [""] * len(ticks))
