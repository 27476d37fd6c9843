"""Samples of several trials from the same latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from gcsearch.analysis.report.drawing import Picture, new_figure, shorten
from gcsearch.analysis.results import StudyResults
from gcsearch.analysis.wording import images_text, metric_title, parameters_text
from gcsearch.ledger import TrialRecord
from gcsearch.metrics.grid import read_tiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_ROWS: Final = 8
NUM_LATENTS: Final = 10
INCHES: Final = 0.42
"""Side of an image."""

INCHES_PER_LETTER: Final = 0.058
"""At most, on average, in the labels' size."""


def chosen_trials(results: StudyResults) -> list[TrialRecord]:
    """The winner, the best trials of the search, and the worst one with samples, for contrast."""
    rows = [row.record for row in results.rows() if row.record.samples]
    winner = results.winner()
    first = [winner] if winner is not None and winner.samples else []
    best = [record for record in rows if record not in first]
    most = MAX_ROWS - len(first)
    return [*first, *(best if len(best) <= most else [*best[: most - 1], best[-1]])]


def sample_strips(results: StudyResults) -> Picture | None:
    """A row of images for each trial, at the last rung it reached; a column is one latent."""
    strips: list[tuple[str, npt.NDArray[np.uint8]]] = []
    for record in chosen_trials(results):
        images = max(record.samples)
        path = results.directory / record.samples[images]
        if path.is_file():  # samples may have been deleted to save space
            strips.append((_label(results, record, images), read_tiles(path)[:NUM_LATENTS]))
    if not strips:
        return None
    return Picture(
        name="samples",
        title="Samples from the same latents",
        caption=(
            "Rows are trials: the winner, the best of the search, and the worst, each at the last rung it reached. "
            "Columns are latents: the same noise goes into every model, so what differs is what was learned. Not "
            "chosen by hand: the first latents of the study's evaluation."
        ),
        figure=draw_strips(strips),
    )


def draw_strips(strips: Sequence[tuple[str, npt.NDArray[np.uint8]]]) -> Figure:
    """Rows of images with their labels.

    Args:
        strips: Label, in any number of lines, and images (N, H, W) or (N, H, W, 3) of each row, at least one.
    """
    canvas, step = _canvas([tiles for _, tiles in strips])
    rows, columns = len(strips), canvas.shape[1] // step
    labels = [label for label, _ in strips]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    left, width, height, top = INCHES_PER_LETTER * longest + 0.1, INCHES * columns, INCHES * rows, 0.4
    figure = new_figure(left + width + 0.1, height + top + 0.05)
    # By hand: the automatic layout leaves too little room beside axes whose shape is fixed.
    figure.set_layout_engine("none")
    total_width, total_height = figure.get_size_inches()
    axes = figure.add_axes((left / total_width, 0.05 / total_height, width / total_width, height / total_height))
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    centers = [index * step + step / 2 for index in range(max(rows, columns))]
    axes.set_yticks(centers[:rows], labels, fontsize=6.8)
    axes.set_xticks(centers[:columns], [str(index) for index in range(columns)], fontsize=7)
    axes.xaxis.tick_top()
    axes.set_xlabel("latent", fontsize=7.5)
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _canvas(strips: Sequence[npt.NDArray[np.uint8]]) -> tuple[npt.NDArray[np.uint8], int]:
    """Rows of tiles on white, and the distance between two tiles in pixels."""
    side = max(tiles.shape[1] for tiles in strips)
    step = side + max(2, side // 16)
    columns = max(len(tiles) for tiles in strips)
    channels = max((tiles[0].shape[2:] for tiles in strips), default=())
    canvas = np.full((len(strips) * step, columns * step, *channels), 255, dtype=np.uint8)
    for row, tiles in enumerate(strips):
        for column, tile in enumerate(tiles):
            top, left = row * step + (step - side) // 2, column * step + (step - side) // 2
            place = canvas[top : top + tile.shape[0], left : left + tile.shape[1]]
            place[:] = tile if tile.ndim == canvas.ndim else tile[..., None]
    return canvas, step


def _label(results: StudyResults, record: TrialRecord, images: int) -> str:
    """Whose samples they are, in two lines."""
    value = record.value_at(results.metric, images)
    name = metric_title(results).split(" (")[0]
    score = "" if value is None else f", {name} {value:.3g}"
    kind = "" if record.kind == "trial" else f" ({record.kind})"
    params = shorten(parameters_text(record.params, results.keys), 72)
    return f"{record.trial}{kind} at {images_text(images)}{score}\n{params}"
