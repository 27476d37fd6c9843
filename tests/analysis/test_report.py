"""The report: everything is there, agrees with the ledger, and no text of a user's becomes code."""

from __future__ import annotations

import base64
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gcsearch.analysis.report import write_report
from gcsearch.analysis.report.answer import answer
from gcsearch.analysis.report.curves import pareto_front
from gcsearch.analysis.report.drawing import scale_of
from gcsearch.analysis.report.page import PICTURES, TABLES
from gcsearch.analysis.report.tables import Column, Table, latex, markdown
from gcsearch.analysis.results import StudyResults, open_results
from gcsearch.ledger import LEDGER_NAME
from gcsearch.metrics.grid import write_png
from gcsearch.tuning.importance import PedAnova

HOSTILE = "<script>alert('x')</script>"
FORMULA = r"50 % of $\frac{1 & a_b #|"
RUNGS = (1000, 2000, 4000)
SHOWN = [name for name in PICTURES if not name.startswith("front")]
"""Figures of a study of one objective."""
IDENTITY = (
    "metric=fid | extractor=digits@1 | reference=digits@2 x9 | num_samples={} | sampler=one_step | quantisation=u8"
)


def evenly(trials, losses):
    """A measure of importance that takes no time."""
    keys = sorted({key for trial in trials for key in trial})
    return lambda picked: {key: 1.0 + place for place, key in enumerate(keys)}


def write_ledger(folder: Path, name: str, trials, finalists=(), *, has_samples: bool = True) -> StudyResults:
    """A study whose trials are (state, parameters, scores at the rungs)."""
    objective = {"metric": "fid", "key": "eval/fid", "goal": "minimize", "use": "last"}
    start = {"study": name, "objective": objective, "horizon_images": RUNGS[-1], "keys": ["mu", "word"]}
    events = [{"event": "study_started", **start, "provenance": {"git": HOSTILE, "seeds": {"search": 0}}}]

    def train(trial, kind, state, params, scores, num_samples, seed=0, **fields):
        events.append({"event": "trial_started", "kind": kind, "params": params, "seed": seed, "trial": trial} | fields)
        for images, score in zip(RUNGS, scores, strict=False):
            cost = {"cost/train_seconds": images / 70, "cost/forward_units": 4.2 * images}
            result = {"event": "result", "images": images, "metrics": {"eval/fid": score} | cost, "trial": trial}
            events.append(result | {"identities": {"eval/fid": IDENTITY.format(num_samples)}})
            path = f"trials/{trial}/samples/{images}.png"
            events.append({"event": "samples", "trial": trial, "images": images, "path": path})
            if has_samples:
                write_png(folder / path, torch.full((64, 1, 8, 8), seed, dtype=torch.uint8))
        reason = {"failed": f"RuntimeError: {HOSTILE}", "diverged": "loss is not finite"}.get(state)
        events.append({"event": "trial_ended", "trial": trial, "state": state, "reason": reason})

    for number, (state, params, scores) in enumerate(trials):
        train(f"{number:04d}", "trial", state, params, scores, 2000)
    if finalists:
        chosen = {"candidates": list(finalists), "seeds": [1, 2, 3]}
        events.append({"event": "finalists_started", **chosen})
        for candidate, end in finalists.items():
            for seed in chosen["seeds"]:
                scores = [end * factor + seed / 100 for factor in (3, 2, 1)]
                fields = {"candidate": candidate, "seed": seed}
                train(f"{candidate}-s{seed}", "finalist", "completed", {}, scores, 10_000, **fields)
    events.append({"event": "study_ended"})
    (folder / LEDGER_NAME).write_text(
        "".join(
            json.dumps({"time": f"2026-01-01T{i // 3600:02d}:{i // 60 % 60:02d}:{i % 60:02d}+00:00"} | event) + "\n"
            for i, event in enumerate(events)
        )
    )
    return open_results(folder)


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A study with everything in it, and its report."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("study")
    trials = []
    for number in range(24):
        params = {"mu": float(random.random()), "word": [HOSTILE, FORMULA, "plain"][number % 3], "flag": number % 4 < 2}
        if number % 3 == 2:
            params["word.few"] = number % 2
        state = {20: "failed", 21: "diverged", 22: "stopped"}.get(number, "completed")
        num = {"completed": 3, "stopped": 1, "diverged": 1, "failed": 0}[state]
        trials.append((state, params, [float(30 / i + 5 * params["mu"] + random.normal()) for i in (1, 2, 3)][:num]))
    results = write_ledger(folder, HOSTILE, trials, {"0001": 5.0, "0002": 9.0})
    output = tmp_path_factory.mktemp("report")
    return results, output, write_report(results, output, evenly)


def test_every_figure_and_table_is_there_and_can_be_read(full):
    _, output, written = full
    assert {path.stem for path in written.figures} == set(SHOWN)
    assert {path.stem for path in written.tables} == set(TABLES)
    for name in SHOWN:
        with Image.open(output / f"figures/{name}.png") as picture:
            assert min(picture.size) > 100
        assert ElementTree.parse(output / f"figures/{name}.svg").getroot().tag.endswith("svg")
    for name in TABLES:
        rows = pq.read_table(output / f"tables/{name}.parquet").num_rows
        assert rows > 0
        lines = (output / f"tables/{name}.md").read_text().splitlines()
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
        assert len(cells) == rows + 2
        assert len(set(cells)) == 1
        body = (output / f"tables/{name}.tex").read_text()
        ends = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(ends) == rows + 1
        assert len({len(re.findall(r"(?<!\\)&", line)) for line in ends}) == 1
        assert not re.search(r"(?<!\\)[#$_]", "".join(ends))


def test_no_text_becomes_code_and_nothing_is_loaded(full):
    _, output, _ = full
    page = Page(output / "report.html")
    assert "script" not in page.tags
    assert f"RuntimeError: {HOSTILE}" in page.text
    assert not any(name.startswith("on") for name, _ in page.attributes)
    for name, value in page.attributes:
        if name in ("src", "href"):
            assert value.startswith(("data:image/", "#"))
    images = [value for name, value in page.attributes if name == "src"]
    assert len(images) == len(SHOWN)
    for value in images:
        content = base64.b64decode(value.split(",")[1])
        assert not re.search(rb"href=\"(?!#|data:)|url\((?!#)", content)
    assert not re.search(r"@import|url\(", (output / "report.html").read_text())
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes


def test_tables_hold_the_numbers_of_the_ledger(full):
    results, output, _ = full
    rows = {row["trial"]: row for row in pq.read_table(output / "tables/trials.parquet").to_pylist()}
    assert set(rows) == {record.trial for record in results.searched()}
    for record in results.searched():
        row = rows[record.trial]
        assert row["value"] == results.value(record)
        assert row["state"] == record.state
        assert {key: row[f"param/{key}"] for key in record.params} == record.params
    curves = pq.read_table(output / "tables/curves.parquet").to_pylist()
    assert [(row["trial"], row["images"], row["value"]) for row in curves] == [
        (record.trial, result.images, result.metrics["eval/fid"])
        for record in results.state.trials.values()
        for result in record.results
    ]
    recipes = pq.read_table(output / "tables/finalists.parquet").to_pylist()
    assert [row["candidate"] for row in recipes] == ["0001", "0002"]
    assert recipes[0]["mean"] == pytest.approx(5.02)
    failures = pq.read_table(output / "tables/failures.parquet").to_pylist()
    assert [(row["trial"], row["state"]) for row in failures] == [("0020", "failed"), ("0021", "diverged")]


def test_curves_are_coloured_by_a_parameter_that_all_trials_have(full):
    _, output, _ = full
    # The measure of importance puts word.few first, which a third of the trials have.
    assert "FID (digits features) over training, by word" in Page(output / "report.html").text
    assert pq.read_table(output / "tables/importance.parquet").column("key")[0].as_py() == "word.few"


def test_the_answer_names_winner_gap_certainty_and_cost(full):
    _, output, written = full
    assert written.answer.headline.startswith("Winner: the recipe of trial 0001, 5.020 [")
    facts = dict(written.answer.facts)
    assert "4.000 (44.3 %) better than that of the next recipe (0002)" in facts["By how much"]
    assert "3 seeds that the search never saw" in facts["How sure"]
    assert "24 trials" in facts["At what cost"]
    assert "Finalists: 6 trainings" in facts["At what cost"]
    text = Page(output / "report.html").text
    assert written.answer.headline in text
    assert "2,000 samples by one_step against digits@2 x9" in text


@pytest.mark.slow
def test_the_same_study_gives_the_same_page(full, tmp_path):
    results, output, _ = full
    write_report(results, tmp_path, evenly)
    assert (tmp_path / "report.html").read_bytes() == (output / "report.html").read_bytes()


@pytest.mark.slow
def test_a_large_study_has_a_small_page_soon(tmp_path):
    random = np.random.default_rng(0)
    trials = []
    for number in range(500):
        params = {f"p{index}": float(random.random()) for index in range(6)} | {"word": "abc"[number % 3]}
        num = 3 if number % 5 == 0 else 1
        scores = [float(30 / (rung + 1) + params["p0"] + random.normal()) for rung in range(num)]
        trials.append(("completed" if num == 3 else "stopped", params, scores))
    results = write_ledger(tmp_path, "large", trials, has_samples=False)
    begun = time.process_time()  # not by the clock on the wall: other tests run at the same time
    written = write_report(results, tmp_path / "report", PedAnova)
    assert time.process_time() - begun < 20
    assert written.page.stat().st_size < 5e6
    assert {"importance", "pairs", "parallel_coordinates"} <= {path.stem for path in written.figures}


def test_the_front_is_what_nothing_cheaper_beats(full):
    results, *_ = full
    front = pareto_front(results, "cost/train_seconds")
    points = [
        (one.metrics["cost/train_seconds"], one.metrics["eval/fid"])
        for record in results.searched()
        for one in record.results
    ]
    expected = {
        (cost, value)
        for cost, value in points
        if not any((other < cost and least <= value) or (other <= cost and least < value) for other, least in points)
    }
    assert set(front) == expected


@pytest.mark.parametrize(
    ("trials", "headline"),
    [
        ([], "There is no answer: no trial has come to full length with a score (none has begun)."),
        ([("failed", {"mu": 0.1}, [])] * 3, "with a score (3 failed)."),
        ([("diverged", {"mu": 0.1}, [])] * 2, "with a score (2 diverged)."),
        ([("completed", {"mu": 0.1, "word": "x"}, [9.0, 8.0, 7.0])], "Best trial: 0000, FID (digits features) 7.000."),
    ],
    ids=["empty", "all failed", "all diverged", "one trial"],
)
def test_a_study_with_little_in_it_has_an_honest_page(tmp_path, trials, headline):
    written = write_report(write_ledger(tmp_path, "small", trials), tmp_path / "report", evenly)
    assert headline in written.answer.headline
    assert written.answer.headline in Page(written.page).text
    assert (tmp_path / "report/tables/trials.md").is_file()


def test_without_finalists_nobody_is_called_the_winner(tmp_path):
    trials = [("completed", {"mu": value}, [9.0, 8.0, 7.0 + value]) for value in (0.1, 0.2, 5.0)]
    said = answer(write_ledger(tmp_path, "small", trials))
    assert "not a proven winner" in said.headline
    facts = dict(said.facts)
    assert "1 of the other 2 full-length trials are as near" in facts["How sure"]
    assert "0.100 (1.4 %) ahead of the next one (0001)" in facts["By how much"]


def test_a_single_training_is_not_called_the_best_of_many(tmp_path):
    said = answer(write_ledger(tmp_path, "small", [("completed", {"mu": 0.1}, [9.0, 8.0, 7.0])]))
    assert dict(said.facts)["How sure"] == "Not known: a training with another seed would have another score."
    assert "1 trial, " in dict(said.facts)["At what cost"]


def test_files_of_an_earlier_report_that_no_longer_apply_are_gone(tmp_path):
    write_report(write_ledger(tmp_path, "small", [("failed", {"mu": 0.2}, [])]), tmp_path / "report", evenly)
    assert len(list((tmp_path / "report/tables").glob("failures.*"))) == 3
    write_report(write_ledger(tmp_path, "small", []), tmp_path / "report", evenly)
    assert not list((tmp_path / "report/tables").glob("failures.*"))


def test_cells_keep_their_place_whatever_is_in_them():
    columns = [Column(key="a", heading="a|b"), Column(key="b", heading="50 %")]
    table = Table(name="t", title="t", columns=columns, rows=[{"a": "x | y\nz \\", "b": FORMULA}, {"b": 0.000123456}])
    assert markdown(table).splitlines()[-2] == r"| x \| y z \\ | 50 % of $\\frac{1 & a_b #\| |"
    assert r"50 \% of \$\textbackslash{}frac\{1 \& a\_b \#|" in latex(table)
    assert "-- & 1.235e-4" in latex(table)


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([10.0 ** (index / 10) for index in range(30)], ("1", "794")),
        ([index / 20 for index in range(21)], ("0", "1")),
        ([True, False], ("False", "True")),
        ([40, 10, 20], ("10", "40")),
    ],
)
def test_scales_are_monotone_and_labelled_with_their_ends(values, ends):
    scale = scale_of(values)
    places = [scale.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0, 1)
    assert (scale.labels[0], scale.labels[-1]) == ends
    if len(values) == 30:
        assert np.diff(places) == pytest.approx(1 / 29)
