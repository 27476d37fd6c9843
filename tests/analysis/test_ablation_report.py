"""The report of an ablation: everything is there, agrees with the ledger, and no text of a user's becomes code."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gcsearch.ablations import Contrast, Plan
from gcsearch.analysis.ablation import ablation_results
from gcsearch.analysis.report import write_ablation_report
from gcsearch.analysis.report.ablation_page import PICTURES, TABLES
from gcsearch.analysis.report.seed_bands import curve
from gcsearch.analysis.results import open_results
from gcsearch.ledger import LEDGER_NAME
from gcsearch.metrics.grid import write_png
from gcsearch.statistics import Margin, t_interval

from .test_report import HOSTILE, IDENTITY, Page

SEEDS = (0, 1, 2, 3, 4)
ENDS = {"baseline": 10.0, "a=1": 8.0, "b=2": 13.0, "same": 10.02, HOSTILE: 9.0, "d": math.inf, "f": 9, "g": 9, "h": 9}
RUNGS = (1000, 2000, 4000)


def write_ablation(folder, ends, *, seeds=SEEDS, has_samples=True):
    """An ablation whose arms end at known means; infinite ones diverge on seed 1."""
    arms = tuple(ends)
    plan = Plan(
        arms=arms,
        contrasts=tuple(Contrast(name=arm, plus=(arm,), minus=(arms[0],), reference=arms[0]) for arm in arms[1:]),
        seeds=SEEDS,
        looks=(len(SEEDS),),
        key="eval/fid",
        lower_is_better=True,
        margin=Margin(value=0.013),
    )
    objective = {"metric": "fid", "key": "eval/fid", "goal": "minimize", "use": "last"}
    start = {"study": HOSTILE, "objective": objective, "keys": ["word"], "horizon_images": RUNGS[-1]}
    events = [{"event": "study_started", **start, "ablation": plan.to_dict(), "provenance": {"git": HOSTILE}}]
    for seed in seeds:
        for index, (arm, end) in enumerate(ends.items()):
            trial = f"{index:02d}-s{seed}"
            started = {"kind": "arm", "arm": arm, "seed": seed, "params": {"word": arm}}
            events.append({"event": "trial_started", "trial": trial} | started)
            own = np.random.default_rng([seed, index]).normal()
            is_gone = math.isinf(end) and seed == 1
            for images in RUNGS[: 1 if is_gone else None]:
                level = 9.0 if math.isinf(end) else end
                value = (level + 0.3 * math.sin(seed) + 0.01 * own) * (RUNGS[-1] / images) ** 0.5
                costs = {"cost/train_seconds": images / 70 * (1 + index), "cost/forward_units": 4.2 * images}
                result = {"images": images, "metrics": {"eval/fid": value} | costs}
                events.append({"event": "result", "trial": trial} | result)
                events[-1]["identities"] = {"eval/fid": IDENTITY.format(2000)}
                path = f"trials/{trial}/samples/{images}.png"
                events.append({"event": "samples", "trial": trial, "images": images, "path": path})
                if has_samples and images == RUNGS[-1]:
                    write_png(folder / path, torch.full((64, 1, 8, 8), 20 * index, dtype=torch.uint8))
            state = {"state": "diverged", "reason": HOSTILE} if is_gone else {"state": "completed"}
            events.append({"event": "trial_ended", "trial": trial} | state)
    if len(seeds) == len(SEEDS):
        events.append({"event": "study_ended"})
    lines = (json.dumps({"time": f"2026-01-01T{i // 3600:02d}:{i // 60 % 60:02d}:{i % 60:02d}+00:00"} | event) + "\n"
             for i, event in enumerate(events))  # fmt: skip
    (folder / LEDGER_NAME).write_text("".join(lines))
    return open_results(folder)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder, output = tmp_path_factory.mktemp("ablation"), tmp_path_factory.mktemp("report")
    results = write_ablation(folder, ENDS)
    return results, output, write_ablation_report(results, output)


def test_every_figure_and_table_is_there_and_can_be_read(full):
    _, output, written = full
    assert {path.stem for path in written.figures} == set(PICTURES) - {"noise"}
    assert {path.stem for path in written.tables} == set(TABLES) - {"noise"}
    for name in {path.stem for path in written.figures}:
        with Image.open(output / f"figures/{name}.png") as picture:
            assert min(picture.size) > 100
    for name in {path.stem for path in written.tables}:
        assert pq.read_table(output / f"tables/{name}.parquet").num_rows > 0
        assert (output / f"tables/{name}.tex").read_text().count(r"\\") > 1


def test_no_text_becomes_code(full):
    page = Page(full[1] / "report.html")
    assert "script" not in page.tags
    assert HOSTILE in page.text
    assert all(value.startswith(("data:image/", "#")) for name, value in page.attributes if name in ("src", "href"))


def test_the_answer_names_what_is_better_worse_the_same_and_diverged(full):
    said = full[2].answer
    facts = dict(said.facts)
    assert said.headline.startswith("Of 8 contrasts: 5 better, 1 worse, 1 no different, 1 diverged. The largest gain:")
    assert "a=1, -19.9 % [-20.0, -19.8]" in said.headline
    assert facts["Better"].startswith("a=1, -19.9 %")
    assert facts["Worse"].startswith("b=2, +")
    assert facts["No difference"].startswith("same")
    assert facts["Diverged"].startswith("d (diverged on 1)")
    assert "at most 5 %" in facts["How sure"]
    assert "45 trainings" in facts["At what cost"]


def test_tables_hold_the_numbers_of_the_verdicts(full):
    results, output, _ = full
    found = ablation_results(results)
    rows = {row["contrast"]: row for row in pq.read_table(output / "tables/verdicts.parquet").to_pylist()}
    for one in found.main:
        if one.judgement is not None:
            share = one.judgement.comparison.share
            row = rows[one.contrast.name]
            assert row["verdict"] == one.verdict
            assert (row["change"], row["change_low"], row["change_high"]) == pytest.approx(
                (100 * share.mean, 100 * share.low, 100 * share.high)
            )
            assert row["correlation"] == one.judgement.comparison.correlation
    assert rows["d"]["verdict"] == "diverged on 1"
    arms = {row["arm"]: row for row in pq.read_table(output / "tables/arms.parquet").to_pylist()}
    assert arms["b=2"]["mean"] == pytest.approx(13, abs=0.2)
    assert arms["d"]["mean"] is None
    (failure,) = pq.read_table(output / "tables/failures.parquet").to_pylist()
    assert (failure["trial"], failure["reason"]) == ("05-s1", HOSTILE)


def test_a_band_is_over_the_seeds_that_all_evaluations_have(full):
    results, _, _ = full
    records = [record for record in results.state.trials.values() if record.arm == "a=1"]
    points = curve(records, "eval/fid", "images")
    assert [point.cost for point in points] == list(RUNGS)
    assert points[-1].score == t_interval([record.results[-1].metrics["eval/fid"] for record in records])
    seconds = curve(records, "eval/fid", "cost/train_seconds")
    assert [point.cost for point in seconds] == pytest.approx([images / 70 * 2 for images in RUNGS])
    gone = [record for record in results.state.trials.values() if record.arm == "d"]
    assert [point.cost for point in curve(gone, "eval/fid", "images")] == [RUNGS[0]]


@pytest.mark.parametrize(
    ("seeds", "headline"),
    [((0, 1), "Of 2 contrasts: 2 undecided. The ablation is not over"), ((), "There is no answer yet")],
)
def test_an_ablation_with_little_in_it_has_an_honest_page(tmp_path, seeds, headline):
    results = write_ablation(tmp_path, {"baseline": 10.0, "a": 9.0, "b": 9.0}, seeds=seeds, has_samples=False)
    written = write_ablation_report(results, tmp_path / "out")
    assert written.answer.headline.startswith(headline)
    assert "samples" not in {path.stem for path in written.figures}
    assert written.page.is_file()
