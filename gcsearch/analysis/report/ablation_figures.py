"""Figures of an ablation besides its curves: what differs by how much, seed by seed, and what every arm draws."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from gcsearch.ablations import AXES, Axis, Outcome
from gcsearch.analysis.ablation import AXIS_NAMES, AblationResults, verdict_text
from gcsearch.analysis.report.ablation_tables import PARTS
from gcsearch.analysis.report.drawing import (
    COLORS,
    DASHES,
    GREY,
    MARKERS,
    Picture,
    grid,
    new_figure,
    set_scale,
    short_number,
    shorten,
)
from gcsearch.analysis.report.samples import NUM_LATENTS, draw_strips
from gcsearch.analysis.report.seed_bands import REFERENCE, arm_records
from gcsearch.analysis.results import StudyResults
from gcsearch.analysis.wording import images_text, metric_title
from gcsearch.metrics.grid import read_tiles
from gcsearch.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VERDICT_COLORS: Final = {"better": "#009E73", "worse": "#D55E00", "equivalent": "#0072B2", "inconclusive": GREY}
VERDICT_MARKERS: Final = {"better": "v", "worse": "^", "equivalent": "o", "inconclusive": "D"}
LINEAR: Final = 20.0
"""Percent up to which an axis that spans more than `WIDE` stays linear."""

WIDE: Final = 120.0
MAX_ARMS: Final = 12
"""Arms whose samples and scores seed by seed are shown."""


def forest_figure(results: StudyResults, found: AblationResults) -> Picture | None:
    """Every contrast's mean paired difference with its interval, and the margin of equivalence."""
    known = [index for index, one in enumerate(found.main) if _interval(one) is not None]
    if not known:
        return None
    rows = [found.main[index] for index in known]
    is_share = all(one.judgement and one.judgement.comparison.share for one in rows)
    axes_of_cost = [axis for axis in AXES if _has_own_cost(found, axis)]
    figure = new_figure(3.4 + 2.3 * len(axes_of_cost), 1.1 + 0.36 * len(rows))
    places = figure.subplots(1, len(axes_of_cost), squeeze=False, sharey=True)[0]
    for axes, axis in zip(places, axes_of_cost, strict=True):
        _draw_forest(axes, found, axis, known, is_share=is_share)
    names = [shorten(one.contrast.name, 46) for one in rows]
    places[0].set_yticks(range(len(rows)), names, fontsize=8)
    places[0].set_ylim(len(rows) - 0.5, -0.7)
    unit = "% of the reference's mean" if is_share else f"in units of {metric_title(results)}"
    figure.supxlabel(f"difference, {unit}", fontsize=9)
    worse = "right" if found.plan.lower_is_better else "left"
    return Picture(
        name="forest",
        title="What each change does",
        caption=(
            "Mean difference on the same seeds with its 95 % t interval, not corrected for the number of contrasts; "
            f"the colour and the word give the verdict, which is. The band is the margin of equivalence "
            f"({found.plan.margin}); {worse} of it is worse. With equal forward units or equal time, arms are "
            "compared at what the cheaper of the two had used in the end."
        ),
        figure=figure,
    )


def _has_own_cost(found: AblationResults, axis: Axis) -> bool:
    """Whether giving arms the same amount of this is something else than giving them the same images."""
    if axis == "images":
        return True
    pairs = zip(found.by_axis[axis], found.main, strict=True)
    return any(one.judgement and other.judgement and one.judgement != other.judgement for one, other in pairs)


def _interval(outcome: Outcome) -> Interval | None:
    if outcome.judgement is None:
        return None
    return outcome.judgement.comparison.share or outcome.judgement.comparison.gap


def _draw_forest(axes: Axes, found: AblationResults, axis: Axis, known: list[int], *, is_share: bool) -> None:
    axes.grid(visible=True, axis="x", color="#DDDDDD", linewidth=0.6)
    axes.axvline(0, color=GREY, linewidth=0.8)
    margin, scale = found.plan.margin, 100.0 if is_share else 1.0
    if margin.is_relative == is_share:
        axes.axvspan(-scale * margin.value, scale * margin.value, color="#0072B2", alpha=0.12, linewidth=0)
    extreme = 0.0
    for row, index in enumerate(known):
        outcome = found.by_axis[axis][index]
        judgement = outcome.judgement
        if judgement is None:
            continue
        interval = judgement.comparison.share if is_share else judgement.comparison.gap
        if interval is None:
            continue
        ends = [end for end in (interval.mean, interval.low, interval.high) if end is not None]
        extreme = max([extreme, *(abs(scale * end) for end in ends)])
        color = VERDICT_COLORS.get(outcome.verdict, GREY)
        if interval.low is not None and interval.high is not None:
            axes.plot([scale * interval.low, scale * interval.high], [row, row], color=color, linewidth=1.6)
        axes.plot([scale * interval.mean], [row], VERDICT_MARKERS.get(outcome.verdict, "x"), color=color, markersize=6)
        axes.annotate(
            verdict_text(outcome),
            (scale * interval.mean, row),
            xytext=(0, 5),
            textcoords="offset points",
            fontsize=7,
            color=color,
            ha="center",
        )
    axes.set_title(f"at {AXIS_NAMES[axis]}")
    axes.tick_params(axis="y", length=0)
    if is_share and extreme > WIDE:
        from matplotlib.ticker import FuncFormatter, NullFormatter

        axes.set_xscale("symlog", linthresh=LINEAR)
        ticks = [tick for tick in (20.0, 100.0, 1000.0, 10_000.0) if tick <= 2 * extreme]
        axes.set_xticks([*(-tick for tick in ticks if tick <= 100), 0.0, *ticks])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12)


def seeds_figure(results: StudyResults, found: AblationResults) -> Picture | None:
    """The score of every arm on every seed: parallel lines are what pairing lives on."""
    arms = {arm: records for arm, records in arm_records(results, found).items() if len(records) > 1}
    shown = dict(list(arms.items())[:MAX_ARMS])
    seeds = sorted({record.seed for records in shown.values() for record in records if record.state == "completed"})
    if len(seeds) < 2:
        return None
    figure = new_figure(7.0, 3.4 + 0.2 * -(-len(shown) // 2))
    axes = figure.subplots()
    grid(axes)
    values = []
    for index, (arm, records) in enumerate(shown.items()):
        points = [
            (seeds.index(record.seed), value)
            for record in records
            if record.state == "completed" and (value := record.value(found.plan.key)) is not None
        ]
        if not points:
            continue
        values += [value for _, value in points]
        place = (index - 1) % len(COLORS)
        look = {"color": COLORS[place], "marker": MARKERS[place], "linestyle": DASHES[place]}
        axes.plot(
            *zip(*points, strict=True),
            **(REFERENCE if arm == found.plan.arms[0] else look),
            linewidth=1.2,
            markersize=4.5,
            label=shorten(arm, 44),
        )
    set_scale(axes.yaxis, values)
    axes.set_xticks(range(len(seeds)), [str(seed) for seed in seeds])
    axes.set_xlabel("seed")
    axes.set_ylabel(metric_title(results))
    figure.legend(loc="outside lower center", ncols=2)
    rest = f" The first {MAX_ARMS} of {len(arms)} arms." if len(arms) > MAX_ARMS else ""
    return Picture(
        name="seeds",
        title="Seed by seed",
        caption=(
            "Score at full length of every arm on every seed. Where lines go up and down together, a seed does the "
            "same to all arms, and a difference on the same seed is known better than the difference of two means: "
            f"the correlation in the table of verdicts.{rest}"
        ),
        figure=figure,
    )


def noise_figure(results: StudyResults, found: AblationResults) -> Picture | None:
    """What the variance of the reference's scores consists of, by number of samples."""
    if found.noise is None:
        return None
    sizes = found.noise.by_size
    figure = new_figure(7.0, 1.3 + 0.42 * len(sizes))
    axes = figure.subplots()
    left = [0.0] * len(sizes)
    totals = [sum(getattr(one, part).value for part in PARTS) or 1.0 for _, one in sizes]
    for index, (part, name) in enumerate(PARTS.items()):
        shares = [100 * getattr(one, part).value / total for (_, one), total in zip(sizes, totals, strict=True)]
        axes.barh(range(len(sizes)), shares, left=left, color=COLORS[index], height=0.62, label=name)
        for row, (share, start) in enumerate(zip(shares, left, strict=True)):
            if share >= 8:
                axes.text(start + share / 2, row, f"{share:.0f}", ha="center", va="center", color="white", fontsize=8)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    labels = [f"{num:,} samples (s = {math.sqrt(total):.2g})" for (num, _), total in zip(sizes, totals, strict=True)]
    axes.set_yticks(range(len(sizes)), labels)
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the variance")
    axes.tick_params(axis="y", length=0)
    axes.spines.left.set_visible(False)
    figure.legend(loc="outside lower center", ncols=3)
    return Picture(
        name="noise",
        title=f"What makes {metric_title(results)} of '{shorten(found.noise.arm, 44)}' noisy",
        caption=(
            "Shares of the variance of a single score, and its standard deviation s. What latents do to all trainings "
            "alike cancels between arms that share them. Intervals are in the table."
        ),
        figure=figure,
    )


def arm_strips(results: StudyResults, found: AblationResults) -> Picture | None:
    """A row of images for each arm, all of one seed; a column is one latent."""
    arms = arm_records(results, found)
    counts: dict[int, int] = {}
    for records in arms.values():
        for record in records:
            if record.samples:
                counts[record.seed] = counts.get(record.seed, 0) + 1
    if not counts:
        return None
    seed = min(counts, key=lambda one: (-counts[one], one))
    strips = []
    for arm, records in list(arms.items())[:MAX_ARMS]:
        for record in records:
            if record.seed != seed or not record.samples:
                continue
            images = max(record.samples)
            path = results.directory / record.samples[images]
            if not path.is_file():  # samples may have been deleted to save space
                continue
            value = record.value_at(found.plan.key, images)
            name = metric_title(results).split(" (")[0]
            score = "" if value is None or not math.isfinite(value) else f", {name} {value:.3g}"
            label = f"{shorten(arm, 60)}\nat {images_text(images)}{score}"
            strips.append((label, read_tiles(path)[:NUM_LATENTS]))
    if not strips:
        return None
    return Picture(
        name="samples",
        title="Samples from the same latents",
        caption=(
            f"Rows are arms, all trained on seed {seed} and shown at the last evaluation. Columns are latents: the "
            "same noise goes into every model, so what differs is what was learned. Not chosen by hand: the first "
            "latents of the evaluation, and the first seed that the most arms have samples of."
        ),
        figure=draw_strips(strips),
    )
