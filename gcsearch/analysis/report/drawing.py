"""What the figures of a report have in common: style, colours, scales, files.

The colours are those of the Okabe-Ito palette, which colour-blind readers can tell apart; markers and dashes do for
print without colours. Text is never read as a formula, since names come from users.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from scipy import stats

from gcsearch.analysis.importance import is_number
from gcsearch.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS: Final = ("o", "s", "^", "D", "v", "P")
DASHES: Final[tuple[Any, ...]] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1)))
COLOR_MAP: Final = "cividis_r"
"""From light (worst, 0) to dark (best, 1)."""

GREY: Final = "#666666"
GRID: Final = "#DDDDDD"
DOTS_PER_INCH: Final = 160
LOG_RATIO: Final = 4.0
"""Ratio of the largest to the smallest positive score from which on its axis is logarithmic."""

STYLE: Final[Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.parse_math": False,
    "axes.formatter.useoffset": False,
    "svg.hashsalt": "gcsearch",  # else every report would differ from the last
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One figure of a report.

    Attributes:
        name: Of its files, without ending.
        title: What it shows, in words.
        caption: How to read it.
        figure: The drawing.
    """

    name: str
    title: str
    caption: str
    figure: Figure


@contextmanager
def style() -> Iterator[None]:
    """The report's style, for as long as figures are made and saved."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches. No window is opened and no global state is touched."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def save(picture: Picture, folder: Path) -> dict[str, bytes]:
    """Write a figure as PNG and as SVG.

    Returns:
        Content of the files, by ending.
    """
    contents = {}
    for ending in ("png", "svg"):
        buffer = io.BytesIO()
        metadata: Any = {"Date": None, "Creator": None} if ending == "svg" else {"Software": None}
        picture.figure.savefig(buffer, format=ending, metadata=metadata)
        picture.figure.set_layout_engine("none")  # what was placed for the first file stays there, and need not again
        contents[ending] = buffer.getvalue()
        with replacing(folder / f"{picture.name}.{ending}") as temporary:
            temporary.write_bytes(contents[ending])
    return contents


def shared_legend(figure: Figure, panels: Iterable[Axes], columns: int) -> None:
    """One legend below all panels, with every label once."""
    entries: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


def grid(axes: Axes) -> None:
    """Light lines behind the data."""
    axes.grid(visible=True, which="major", color=GRID, linewidth=0.6)


def is_log(values: Sequence[float]) -> bool:
    """Whether values span so much that only a logarithmic axis shows them all."""
    return bool(values) and min(values) > 0 and max(values) / min(values) >= LOG_RATIO


def set_scale(axis: Axis, values: Sequence[float]) -> None:
    """Logarithmic axis with plain numbers, if the values ask for it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not is_log(values):
        return
    axis._set_axes_scale("log")  # type: ignore[attr-defined]
    decades = math.log10(max(values) / min(values))
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axis.set_minor_formatter(NullFormatter())


def short_number(value: float) -> str:
    """A number for a tick: at most three digits."""
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def shorten(text: str, length: int = 18) -> str:
    """A name that fits beside an axis."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _is_even_in_log(values: Sequence[float]) -> bool:
    """Whether a parameter's values fill a logarithmic axis more evenly than a linear one."""
    if min(values) <= 0:
        return False
    ends = [(sorted(values), min(values), max(values))]
    ends.append(([math.log(value) for value in ends[0][0]], math.log(ends[0][1]), math.log(ends[0][2])))
    linear, log = (stats.kstest(ordered, "uniform", (low, high - low)).statistic for ordered, low, high in ends)
    return bool(log < linear)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Where the values of a parameter lie on an axis from 0 to 1.

    Attributes:
        place: From a value to its place.
        ticks: Places that are labelled.
        labels: Their labels.
        is_range: Whether values between those seen have a place too.
    """

    place: Callable[[Any], float]
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    is_range: bool


def scale_of(values: Sequence[Any], *, options: int = 7, logarithmic: bool | None = None) -> Scale:
    """Scale of a parameter: its words, or its few numbers, at equal distances; else from the least to the greatest.

    Args:
        values: All values that occur.
        options: Different numbers up to which they are a choice.
        logarithmic: Whether its range is; None where that is not known, and the scale is the one that the values fill
            more evenly.
    """
    is_numeric = all(is_number(value) for value in values)
    distinct: list[Any] = sorted(set(values)) if is_numeric else sorted({str(value) for value in values})
    if is_numeric and len(distinct) > options:
        low, high = float(min(values)), float(max(values))
        is_logarithmic = _is_even_in_log(values) if logarithmic is None else logarithmic and low > 0

        def position(value: Any) -> float:
            if is_logarithmic:
                return math.log(value / low) / math.log(high / low)
            return (float(value) - low) / (high - low)

        def at(place: float) -> float:
            return low * math.exp(place * math.log(high / low)) if is_logarithmic else low + place * (high - low)

        ticks = (0.0, 0.25, 0.5, 0.75, 1.0)
        return Scale(place=position, ticks=ticks, labels=tuple(short_number(at(one)) for one in ticks), is_range=True)
    step = 1 / max(1, len(distinct) - 1)
    known = {str(value): index * step if len(distinct) > 1 else 0.5 for index, value in enumerate(distinct)}
    labels = tuple(shorten(value, 14) if isinstance(value, str) else short_number(value) for value in distinct)
    return Scale(place=lambda value: known[str(value)], ticks=tuple(known.values()), labels=labels, is_range=False)
