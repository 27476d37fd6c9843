"""What is shown of a study of several objectives: tables, report, MLflow, export. All agree on the front."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from gcsearch.analysis.rank_fidelity import rank_fidelities
from gcsearch.analysis.report import write_report
from gcsearch.analysis.report.answer import answer
from gcsearch.analysis.report.drawing import save, style
from gcsearch.analysis.report.front import front_figure, front_of_finalists_figure
from gcsearch.analysis.report.study_tables import finalists_table, trials_table
from gcsearch.analysis.results import open_results
from gcsearch.analysis.wording import advices, front_text, verdict_text
from gcsearch.cli.tables import leaderboard, study_json
from gcsearch.errors import StudyError
from gcsearch.export import export_trial
from gcsearch.ledger import LEDGER_NAME
from gcsearch.tracking.view import leaderboard as tracked_leaderboard
from gcsearch.tracking.view import study_update

IDENTITY = (
    "metric=fid | extractor=digits@1 | reference=digits@2 x9 | num_samples={} | sampler=one_step | quantisation=u8"
)
FID = {"metric": "fid", "key": "eval/fid", "goal": "minimize", "use": "last"}
COST = {"metric": "train_seconds", "key": "cost/train_seconds", "goal": "minimize", "use": "last"}
RECALL = {"metric": "recall", "key": "eval/recall", "goal": "maximize", "use": "last"}

TRIALS = [
    ("completed", (5.0, 10.0, 0.5)),
    ("completed", (2.0, 40.0, 0.2)),
    ("completed", (6.0, 12.0, 0.9)),  # with two objectives, worse than 0000 in both
    ("stopped", (1.0, 1.0, 1.0)),  # of a shorter training
    ("completed", (3.0, 20.0, 0.5)),
    ("completed", (7.0, 41.0, 0.1)),
]
"""State, and value of each objective."""

MEANS = {"0001": (2.5, 40.0), "0004": (2.4, 21.0), "0000": (5.0, 10.0), "0002": (5.01, 10.0)}
"""On fresh seeds 0004 beats 0001, and 0002 cannot be told from 0000."""


@pytest.fixture
def results(tmp_path):
    """Writes such a study and reads it."""

    def make(objectives=(FID, COST), finalists=None):
        start = {"study": "two", "objective": objectives[0], "objectives": list(objectives), "keys": ["mu"]}
        events = [{"event": "study_started", **start, "horizon_images": 4000}]

        def train(trial, kind, state, values, images, num_samples, **fields):
            metrics = {one["key"]: value for one, value in zip((FID, COST, RECALL), values, strict=False)}
            identities = {"eval/fid": IDENTITY.format(num_samples)}
            events.extend(
                {"trial": trial} | event
                for event in (
                    {"event": "trial_started", "kind": kind, "params": {"mu": 0.1 * len(events)}} | fields,
                    {"event": "result", "images": images, "metrics": metrics, "identities": identities},
                    {"event": "trial_ended", "state": state},
                )
            )

        for number, (state, values) in enumerate(TRIALS):
            train(f"{number:04d}", "trial", state, values, 4000 if state == "completed" else 1000, 2000)
        if finalists:
            events.append({"event": "finalists_started", "candidates": list(finalists), "seeds": [1, 2, 3]})
            for candidate, values in finalists.items():
                for seed in (1, 2, 3):
                    noisy = [value * (1 + 0.01 * (seed - 2)) for value in values]
                    fields = {"candidate": candidate, "seed": seed}
                    train(f"{candidate}-s{seed}", "finalist", "completed", noisy, 4000, 10_000, **fields)
        events.append({"event": "study_ended"})
        lines = (json.dumps({"time": f"2026-01-01T00:00:{i:02d}+00:00"} | one) for i, one in enumerate(events))
        (tmp_path / LEDGER_NAME).write_text("".join(f"{line}\n" for line in lines))
        return open_results(tmp_path)

    return make


def test_the_front_is_marked_everywhere(results):
    two = results()
    assert [record.trial for record in two.front()] == ["0001", "0004", "0000"]
    assert [(row.record.trial, row.front) for row in two.rows()] == [
        ("0001", 1), ("0004", 1), ("0000", 1), ("0002", 2), ("0005", 3), ("0003", None)
    ]  # fmt: skip
    assert "fid and train_seconds are trials 0001, 0004 and 0000" in front_text(two)
    shown = study_json(two)
    assert shown["front"] == ["0001", "0004", "0000"]
    assert shown["trials"][0]["values"] == [2.0, 40.0]
    assert [one["metric"] for one in shown["objectives"]] == ["fid", "train_seconds"]
    table = leaderboard(two, two.rows())
    assert [column.header for column in table.columns][:4] == ["front", "trial", "fid (digits)", "train_seconds"]
    assert [row.style for row in table.rows] == ["bold"] * 3 + [None] * 3
    tracked = tracked_leaderboard(two.state)
    assert tracked["columns"][:4] == ["front", "trial", "eval/fid", "cost/train_seconds"]
    assert [line[:4] for line in tracked["data"]][:2] == [[1, "0001", 2.0, 40.0], [1, "0004", 3.0, 20.0]]
    end = {"event": "study_ended", "time": "2026-01-01T00:01:00+00:00"}
    update = study_update([end], two.state)
    assert update.tags["gcsearch.front"] == "0001,0004,0000"
    assert "gcsearch.winner" not in update.tags
    assert "| 1 | 0001 | 2 | 40 |" in update.tags["mlflow.note.content"]
    rows = {row["trial"]: row for row in trials_table(two).rows}
    assert rows["0002"]["front"] == 2
    assert rows["0002"]["value/cost/train_seconds"] == 12.0


def test_a_higher_score_is_better_where_its_goal_says_so(results):
    assert [record.trial for record in results((FID, RECALL)).front()] == ["0001", "0004", "0002"]
    assert [record.trial for record in results((FID, COST, RECALL)).front()] == ["0001", "0004", "0000", "0002"]


def test_of_recipes_on_fresh_seeds_the_means_decide_and_noise_is_named(results):
    two = results(finalists=MEANS)
    assert two.selection.front == ("0004", "0000")
    assert two.selection.ties == ("0004", "0000", "0002")
    assert two.winner() is None
    text = verdict_text(two.selection)
    assert text.endswith("the recipes of trials 0004 and 0000. Within noise of it: 0002.")
    verdicts = {row["candidate"]: row["verdict"] for row in finalists_table(two).rows}
    assert verdicts == {
        "0004": "on the front", "0000": "on the front", "0002": "within noise of the front", "0001": "worse"
    }  # fmt: skip
    assert study_json(two)["finalists"]["front"] == ["0004", "0000"]
    assert study_json(two)["finalists"]["recipes"][0]["means"] == [pytest.approx(2.4), pytest.approx(21.0)]


def test_a_recipe_that_diverges_on_a_fresh_seed_is_on_no_front(results, tmp_path):
    two = results(finalists=MEANS)
    events = [json.loads(line) for line in (tmp_path / LEDGER_NAME).read_text().splitlines()]
    for event in events:
        if event.get("trial") == "0004-s2" and event["event"] == "trial_ended":
            event["state"] = "diverged"
    (tmp_path / LEDGER_NAME).write_text("".join(json.dumps(event) + "\n" for event in events))
    two = open_results(tmp_path)
    assert two.selection.front == ("0001", "0000")
    assert finalists_table(two).rows[-1]["verdict"] == "diverged on a seed"


def test_an_export_without_a_trial_names_the_front_and_writes_nothing(results, tmp_path):
    with pytest.raises(StudyError, match=r"--trial: 0001 \(fid 2, train_seconds 40\); 0004 \(.*\); 0000 \(.*\)\.$"):
        export_trial(results(), tmp_path / "out")
    with pytest.raises(StudyError, match=r"--trial: 0004-s1 \(fid 2.376, train_seconds 20.79\); 0000-s1"):
        export_trial(results(finalists=MEANS), tmp_path / "out")
    assert not (tmp_path / "out").exists()


BLUE = (0, 114, 178)


@pytest.mark.parametrize("objectives", [(FID, COST), pytest.param((FID, COST, RECALL), marks=pytest.mark.slow)])
def test_the_front_is_drawn(results, tmp_path, objectives):
    two = results(objectives, {trial: (*values, 0.5)[: len(objectives)] for trial, values in MEANS.items()})
    with style():
        pictures = [front_figure(two), front_of_finalists_figure(two)]
        contents = [save(picture, tmp_path)["png"] for picture in pictures]
    for picture, content in zip(pictures, contents, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).reshape(-1, 3)
        assert (np.abs(pixels.astype(int) - BLUE).sum(axis=1) < 30).sum() > 100
        axes = [one for one in picture.figure.axes if one.get_visible()]
        assert len(axes) == {2: 1, 3: 3}[len(objectives)]
        assert axes[0].get_xlabel() == "training time (s), lower is better"
        assert axes[0].get_ylabel() == "FID (digits features), lower is better"


def test_the_advice_about_rungs_names_the_objectives_it_is_about(results):
    two = results((FID, COST, RECALL))
    fidelities = rank_fidelities(two)
    (same,) = advices(two, fidelities)
    assert same.startswith("Ranks of fid, train_seconds and recall: 5 full-length trials are too few")
    other = dataclasses.replace(fidelities[1], advice="Early rungs can be trusted.")
    assert (
        advices(two, [fidelities[0], other, fidelities[2]])[1] == "Ranks of train_seconds: early rungs can be trusted."
    )
    one = results((FID,))
    assert advices(one, rank_fidelities(one))[0].startswith("5 full-length trials")
    assert [one["metric"] for one in study_json(two)["rank_fidelities"]] == ["fid", "train_seconds", "recall"]
    assert study_json(two)["rank_fidelity"]["metric"] == "fid"


@pytest.mark.slow
def test_the_report_has_the_front(results, tmp_path):
    two = results(finalists=MEANS)
    written = write_report(two, tmp_path / "report", lambda trials, losses: lambda picked: {})
    assert {"front", "front_of_finalists"} <= {path.stem for path in written.figures}
    assert "training time (s)" in answer(two).question
    assert "What can be had together" in written.page.read_text()


def test_with_one_objective_there_is_no_front(results):
    one = results((FID,))
    assert not one.has_front
    assert one.winner().trial == "0001"
    assert study_json(one)["front"] == []
    assert {row.front for row in one.rows()} == {None}
