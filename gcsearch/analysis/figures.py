"""Figures of a diagnosis, as in the GC papers: one for each quantity, and one page of four.

matplotlib is imported when a figure is drawn, since it takes half a second. No window is opened and no global state is
touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gcsearch.analysis.diagnosis import SHORT_NAMES, Axis, curve
from gcsearch.files import replacing
from gcsearch.statistics import Interval, t_interval
from gcsearch.training.diagnosis import COUPLINGS, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES: Final[dict[str, dict[str, Any]]] = {
    "independent": {"label": "independent (IC)", "color": "#D55E00", "marker": "o", "linestyle": "-"},
    "ot": {"label": "optimal transport (OT)", "color": "#009E73", "marker": "^", "linestyle": "-"},
    "generator": {"label": "generator-augmented (GC)", "color": "#0072B2", "marker": "s", "linestyle": "-"},
}
"""One colour and marker for each coupling. The colours are of the Okabe-Ito palette, which colour-blind readers can
tell apart; the markers do for print without colours."""

EXACT_STYLE: Final[dict[str, Any]] = {
    "label": "IC, closed form",
    "color": "#000000",
    "linestyle": (0, (4, 3)),
    "linewidth": 1.2,
}
DOTS_PER_INCH: Final = 200


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What one set of axes shows.

    Attributes:
        name: Name of its file, without ending.
        quantity: See `Row`.
        axis: Horizontal axis.
        title: What it is, in words.
        label: Symbol and unit of the vertical axis.
        log: Whether the vertical axis is logarithmic.
    """

    name: str
    quantity: str
    axis: Axis
    title: str
    label: str
    log: bool = True


GRADIENT = Panel(
    name="gradient_variance",
    quantity="gradient_variance",
    axis="images",
    title="Gradient variance",
    label="tr Cov of a batch's gradient",
)
DISTANCE = Panel(
    name="ode_distance",
    quantity="ode_distance",
    axis="images",
    title="Distance to PF-ODE step, training pairs",
    label=r"$\mathrm{E}\,\|x_i - x_i^\Phi\|$  (data units)",
)
DISTANCE_BY_LEVEL = Panel(
    name="ode_distance_by_level",
    quantity="ode_distance",
    axis="sigma",
    title="Distance to PF-ODE step, by level",
    label=r"$\mathrm{E}\,\|x_i - x_i^\Phi\|$  (data units)",
)
COST = Panel(
    name="transport_cost",
    quantity="transport_cost",
    axis="sigma",
    title="Transport cost",
    label=r"$c(\sigma) = \mathrm{E}\,\|\hat x - z\|^2$  (data units$^2$)",
    log=False,
)
DEVIATION = Panel(
    name="path_deviation",
    quantity="path_deviation",
    axis="sigma",
    title="Proxy R, by a denoiser for each coupling",
    label=r"$R(\sigma) = \mathrm{E}\,\|\dot x - v\|^2$  (slope by $\sigma$, squared)",
)


def write_figures(rows: Sequence[Row], directory: Path, subject: str) -> list[Path]:
    """Draw every quantity that was measured, and the overview, as PNG.

    Args:
        rows: The diagnosis.
        directory: Folder of the figures, created if missing.
        subject: What was diagnosed, for the titles; the number of seeds is added.

    Returns:
        The files; the overview comes first.
    """
    is_training = any(row.images is not None for row in rows)
    overview = [GRADIENT, DISTANCE if is_training else DISTANCE_BY_LEVEL, COST, DEVIATION]
    single = [GRADIENT, *([DISTANCE] if is_training else []), DISTANCE_BY_LEVEL, COST, DEVIATION]
    heading = f"{subject}, {_seeds_text(rows)}"
    return [
        _write(directory / "overview.png", heading, rows, overview, columns=2),
        *(_write(directory / f"{panel.name}.png", heading, rows, [panel], columns=1) for panel in single),
    ]


def _seeds_text(rows: Sequence[Row]) -> str:
    num = len({row.seed for row in rows})
    return f"mean of {num} seeds with 95 % t intervals" if num > 1 else "one seed, so no intervals"


def _write(path: Path, heading: str, rows: Sequence[Row], panels: Sequence[Panel], columns: int) -> Path:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "mathtext.fontset": "dejavusans",
    }
    with rc_context(style):
        lines = -(-len(panels) // columns)
        figure = Figure(figsize=(4.2 * columns + 0.3, 2.9 * lines + 0.8), dpi=DOTS_PER_INCH, layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False)
        for panel, place in zip(panels, axes.flat, strict=True):
            _draw(place, panel, rows)
        figure.suptitle(heading, fontsize=10 if columns > 1 else 8.5)
        _legend(figure, axes.flat, columns)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")
    return path


def _draw(axes: Axes, panel: Panel, rows: Sequence[Row]) -> None:
    """One quantity: a curve with a band for each coupling, or a point if the weights were given."""
    axes.set_title(panel.title, fontsize=9.5)
    axes.set_ylabel(panel.label)
    axes.grid(visible=True, which="major", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    curves = {name: points for name in COUPLINGS if (points := curve(rows, panel.quantity, name, panel.axis))}
    if not curves:
        _draw_points(axes, panel, rows)
        return
    scale = 1e-3 if panel.axis == "images" else 1.0
    for name, points in curves.items():
        _draw_curve(axes, points, scale, STYLES[name])
    exact = curve(rows, f"exact_{panel.quantity}", "independent", panel.axis)
    if exact:
        axes.plot([place for place, _ in exact], [value.mean for _, value in exact], **EXACT_STYLE, zorder=4)
    means = [value.mean for points in (*curves.values(), exact) for _, value in points]
    if panel.log and min(means) > 0:
        axes.set_yscale("log")
        highs = [value.high or value.mean for points in curves.values() for _, value in points]
        axes.set_ylim(min(means) / 1.6, max(highs) * 1.4)
    else:
        axes.set_ylim(bottom=0)
    if panel.axis == "images":
        axes.set_xlabel("images seen (thousands)")
        axes.set_xlim(left=0)
    else:
        axes.set_xscale("log")
        axes.set_xlabel(r"noise level $\sigma$")


def _draw_curve(axes: Axes, points: Sequence[tuple[float, Interval]], scale: float, style: dict[str, Any]) -> None:
    places = [place * scale for place, _ in points]
    axes.plot(places, [value.mean for _, value in points], linewidth=1.4, markersize=3.5, **style)
    known = [(place, value.low, value.high) for place, (_, value) in zip(places, points, strict=True)]
    if all(low is not None for _, low, _ in known):
        # Below the lowest tick of a logarithmic axis a band is cut off, not drawn at a made-up place.
        lows, highs = [max(low or 0.0, 1e-300) for _, low, _ in known], [high or 0.0 for *_, high in known]
        axes.fill_between(places, lows, highs, color=style["color"], alpha=0.2, linewidth=0)


def _draw_points(axes: Axes, panel: Panel, rows: Sequence[Row]) -> None:
    """Values that belong to given weights: no horizontal axis but the couplings."""
    shown: list[str] = []
    for name in COUPLINGS:
        values = [row.value for row in rows if row.quantity == panel.quantity and row.coupling == name]
        if values:
            interval = t_interval(values)
            error = None if interval.high is None else interval.high - interval.mean
            style = {key: value for key, value in STYLES[name].items() if key != "linestyle"}
            axes.errorbar([len(shown)], [interval.mean], yerr=error, capsize=4, markersize=6, linestyle="none", **style)
            shown.append(name)
    axes.set_xticks(range(len(shown)), [SHORT_NAMES[name] for name in shown])
    axes.set_xlim(-0.6, len(shown) - 0.4)
    axes.set_ylim(bottom=0)


def _legend(figure: Figure, places: Any, columns: int) -> None:
    """One legend for all axes, below them."""
    entries: dict[str, Any] = {}
    for axes in places:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=len(entries) if columns > 1 else min(2, len(entries)),
        frameon=False,
        fontsize=8.5,
    )
