"""Samples of several trials from the same latents."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from gcsearch.analysis.report.drawing import Picture, new_figure, shorten
from gcsearch.analysis.results import StudyResults
from gcsearch.analysis.wording import images_text, metric_title, parameters_text
from gcsearch.ledger import TrialRecord
from gcsearch.metrics.grid import read_tiles

MAX_ROWS: Final = 8
NUM_LATENTS: Final = 10
INCHES: Final = 0.42
"""Side of an image."""


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
    strips: list[tuple[TrialRecord, int, npt.NDArray[np.uint8]]] = []
    for record in chosen_trials(results):
        images = max(record.samples)
        path = results.directory / record.samples[images]
        if path.is_file():  # samples may have been deleted to save space
            strips.append((record, images, read_tiles(path)[:NUM_LATENTS]))
    if not strips:
        return None
    columns = max(len(tiles) for *_, tiles in strips)
    figure = new_figure(INCHES * columns + 3.9, (INCHES + 0.03) * len(strips) + 0.35)
    figure.set_layout_engine("constrained", w_pad=0.012, h_pad=0.012, wspace=0, hspace=0)
    places = figure.subplots(len(strips), columns, squeeze=False)
    name = metric_title(results).split(" (")[0]
    for axes in places.flat:
        axes.axis("off")
    for row, (record, images, tiles) in zip(places, strips, strict=True):
        for axes, tile in zip(row, tiles, strict=False):
            axes.imshow(tile, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        value = record.value_at(results.metric, images)
        score = "" if value is None else f", {name} {value:.3g}"
        params = shorten(parameters_text(record.params, results.keys), 72)
        kind = "" if record.kind == "trial" else f" ({record.kind})"
        text = f"{record.trial}{kind} at {images_text(images)}{score}\n{params}"
        row[0].text(-0.15, 0.5, text, transform=row[0].transAxes, ha="right", va="center", fontsize=6.8)
    figure.suptitle("a column is one latent", fontsize=8)
    return Picture(
        name="samples",
        title="Samples from the same latents",
        caption=(
            "Rows are trials: the winner, the best of the search, and the worst, each at the last rung it reached. "
            "Columns are latents: the same noise goes into every model, so what differs is what was learned. Not "
            "chosen by hand: the first latents of the study's evaluation."
        ),
        figure=figure,
    )
