"""Figure of how well the rungs rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gcsearch.analysis.rank_fidelity import BAD, GOOD, RankFidelity
from gcsearch.analysis.report.drawing import COLORS, GREY, Picture, grid, new_figure, shared_legend
from gcsearch.analysis.results import StudyResults
from gcsearch.analysis.wording import objective_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def fidelity_figure(results: StudyResults, fidelities: Sequence[RankFidelity]) -> Picture | None:
    """Kendall's tau of each rung with the last one, a panel for each objective."""
    known = [(one, found) for one, found in zip(results.objectives, fidelities, strict=True) if found.rungs]
    if not known:
        return None
    figure = new_figure(6.0 if len(known) == 1 else 0.8 + 3.0 * len(known), 3.2)
    panels = figure.subplots(1, len(known), sharey=True, squeeze=False)[0]
    for axes, (objective, fidelity) in zip(panels, known, strict=True):
        _draw(axes, fidelity)
        axes.set_xlim(left=0, right=int(results.state.study["horizon_images"]) / 1000)
        axes.set_xlabel("rung (thousands of images seen)")
        if results.has_front:
            axes.set_title(f"ranks of {objective_title(results, objective)}")
    panels[0].set_ylim(min(-0.1, *(rung.low - 0.05 for _, found in known for rung in found.rungs)), 1.05)
    panels[0].set_ylabel("Kendall's tau with the last rung")
    shared_legend(figure, panels, columns=2)
    return Picture(
        name="rank_fidelity",
        title="Agreement of each rung with the last one",
        caption=(
            f"How well the order of trials at a rung agrees with their order at full length: 1 is the same order, 0 is "
            f"chance. Bars are 95 % bootstrap intervals over trials. Green, {GOOD:g} and more, can be trusted; below "
            f"{BAD:g}, red, a rung misleads."
        ),
        figure=figure,
    )


def _draw(axes: Axes, fidelity: RankFidelity) -> None:
    grid(axes)
    axes.axhspan(GOOD, 1.05, color="#009E73", alpha=0.08, linewidth=0)
    axes.axhspan(-1.05, BAD, color="#D55E00", alpha=0.08, linewidth=0)
    for is_unbiased, decides in ((True, True), (True, False), (False, True), (False, False)):
        rungs = [rung for rung in fidelity.rungs if (rung.is_unbiased, rung.decides) == (is_unbiased, decides)]
        if rungs:
            axes.errorbar(
                [rung.images / 1000 for rung in rungs],
                [rung.tau for rung in rungs],
                yerr=[[rung.tau - rung.low for rung in rungs], [rung.high - rung.tau for rung in rungs]],
                linestyle="none",
                marker="s" if decides else "o",
                markersize=5,
                markerfacecolor=COLORS[0] if is_unbiased else "white",
                color=COLORS[0],
                capsize=3,
                label=("stopping decides here" if decides else "rung") + ("" if is_unbiased else ", survivors only"),
            )
    axes.axhline(0, color=GREY, linewidth=0.8)
