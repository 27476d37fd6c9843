"""Figures show the numbers they are given."""

from __future__ import annotations

import dataclasses
import itertools
import sys

import pytest
from matplotlib.figure import Figure
from PIL import Image

from gcsearch.analysis import figures
from gcsearch.analysis.diagnosis import t_interval
from gcsearch.training.diagnosis import COUPLINGS, Row


def rows_for(couplings=COUPLINGS, num_seeds=3, is_training=True):
    """Rows of every quantity."""
    rows = []
    for (number, coupling), seed in itertools.product(enumerate(couplings), range(num_seeds)):
        make = Row(quantity="", coupling=coupling, seed=seed, images=None, sigma=None, value=0.0)
        for images in (1000, 2000) if is_training else (None,):
            value = (2 + number) * (1 + 0.01 * seed) * ((images or 1000) / 1000)
            rows += [
                dataclasses.replace(make, quantity=quantity, images=images, value=value)
                for quantity in ("gradient_variance", "ode_distance")
            ]
        for sigma in (0.1, 1.0, 10.0):
            names = ["transport_cost", "ode_distance", "path_deviation"]
            names += ["exact_path_deviation"] if coupling == "independent" else []
            value = (1 + number) / sigma
            rows += [dataclasses.replace(make, quantity=name, sigma=sigma, value=value) for name in names]
    return rows


@pytest.fixture
def drawn(monkeypatch):
    """Keeps the figures instead of drawing their pixels, which takes a second each."""
    kept = []

    def keep(self, path, **_):
        kept.append(self)
        path.touch()

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


def test_the_figures_are_png_files_and_keep_no_global_state(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "DOTS_PER_INCH", 50)
    before = set(sys.modules)
    paths = figures.write_figures(rows_for(), tmp_path / "figures", "toy")
    assert "matplotlib.pyplot" not in set(sys.modules) - before
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert len(image.convert("RGB").getcolors(1 << 20)) > 20


def test_every_quantity_gets_a_png_and_the_overview_four(tmp_path, drawn):
    rows = rows_for()
    paths = figures.write_figures(rows, tmp_path / "figures", "toy")
    names = ["overview", "gradient_variance", "ode_distance", "ode_distance_by_level", "transport_cost"]
    assert [path.name for path in paths] == [f"{name}.png" for name in [*names, "path_deviation"]]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(path.name for path in paths)
    overview = drawn[0]
    assert overview.get_suptitle() == "toy, mean of 3 seeds with 95 % t intervals"
    assert len(overview.axes) == 4
    labels = [text.get_text() for text in overview.legends[0].get_texts()]
    assert labels == ["independent (IC)", "optimal transport (OT)", "generator-augmented (GC)", "IC, closed form"]

    variance, _, cost, deviation = overview.axes
    for number, line in enumerate(variance.lines):
        values = [[(2 + number) * (1 + 0.01 * seed) * place for seed in range(3)] for place in (1, 2)]
        assert line.get_ydata().tolist() == pytest.approx([t_interval(part).mean for part in values])
        assert line.get_xdata().tolist() == [1.0, 2.0]  # thousands of images
        band = variance.collections[number].get_paths()[0].vertices[:, 1]
        assert (min(band), max(band)) == pytest.approx((t_interval(values[0]).low, t_interval(values[1]).high))
    assert variance.get_yscale() == deviation.get_yscale() == "log"
    assert cost.get_yscale() == "linear"
    assert cost.get_xscale() == deviation.get_xscale() == "log"
    assert len(deviation.lines) == 4
    assert len(cost.lines) == 3


def test_one_seed_has_no_bands_and_says_so(tmp_path, drawn):
    figures.write_figures(rows_for(num_seeds=1), tmp_path, "toy")
    assert drawn[0].get_suptitle() == "toy, one seed, so no intervals"
    assert all(not axes.collections for axes in drawn[0].axes)


def test_given_weights_show_their_gradient_variance_as_points(tmp_path, drawn):
    paths = figures.write_figures(rows_for(["independent", "generator"], is_training=False), tmp_path, "toy")
    assert "ode_distance.png" not in [path.name for path in paths]
    variance, distance, *_ = drawn[0].axes
    assert [label.get_text() for label in variance.get_xticklabels()] == ["IC", "GC"]
    points = [container.lines[0].get_ydata()[0] for container in variance.containers]
    assert points == pytest.approx([2.02, 3.03])
    assert distance.get_xscale() == "log"


def test_colours_and_markers_tell_the_couplings_apart():
    for key in ("color", "marker", "label"):
        assert len({style[key] for style in figures.STYLES.values()}) == len(COUPLINGS)
