"""A study's ledger as tables, and the rule that scores of different meaning are never compared."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gcsearch.analysis.results import all_results, open_results, write_tables
from gcsearch.errors import ScoreError, StudyError
from gcsearch.ledger import LEDGER_NAME, LedgerWriter

IDENTITY = (
    "metric=fid | extractor=digits@030a71db | reference=digits@b41ca9fd3354 x1797 | num_samples={} | "
    "sampler=one_step | quantisation=clip_round_uint8"
)


def write_study(directory: Path, num_samples: tuple[int, ...] = (64, 64, 64), goal: str = "minimize") -> None:
    """Three completed trials with FID 3, 1, 2, one stopped with a better score, one that diverged at once."""
    objective = {"metric": "fid", "key": "eval/fid", "goal": goal, "use": "last"}
    with LedgerWriter(directory / LEDGER_NAME) as ledger:
        ledger.append(
            "study_started", study=directory.name, objective=objective, keys=["mu"], horizon_images=200, trials=5
        )
        for number, (value, images, state) in enumerate(
            [(3.0, 200, "completed"), (1.0, 200, "completed"), (2.0, 200, "completed"), (0.5, 100, "stopped")]
        ):
            trial = f"{number:04d}"
            ledger.append("trial_started", trial=trial, kind="trial", params={"mu": number / 10}, seed=0)
            identity = IDENTITY.format(num_samples[number] if number < 3 else 64)
            for rung, score in ((100, value + 1), (200, value)) if images == 200 else ((100, value),):
                ledger.append(
                    "result", trial=trial, images=rung, metrics={"eval/fid": score}, identities={"eval/fid": identity}
                )
            ledger.append("trial_ended", trial=trial, state=state, images=images)
        ledger.append("trial_started", trial="0004", kind="trial", params={"mu": 0.9}, seed=0)
        ledger.append("trial_ended", trial="0004", state="diverged", reason="loss is nan", images=0)


def test_only_completed_trials_are_ranked_and_the_others_follow(tmp_path: Path) -> None:
    write_study(tmp_path / "study")
    rows = open_results("study", tmp_path).rows()
    assert [(row.record.trial, row.rank) for row in rows] == [
        ("0001", 1),
        ("0002", 2),
        ("0000", 3),
        ("0003", None),
        ("0004", None),
    ]
    assert [row.value for row in rows] == [1.0, 2.0, 3.0, 0.5, None]


def test_a_score_to_be_maximized_ranks_the_other_way(tmp_path: Path) -> None:
    write_study(tmp_path / "study", goal="maximize")
    assert [record.trial for record in open_results("study", tmp_path).ranking()] == ["0000", "0002", "0001"]


def test_scores_of_different_identity_are_never_ranked_together(tmp_path: Path) -> None:
    write_study(tmp_path / "study", num_samples=(64, 64, 128))
    with pytest.raises(ScoreError, match="num_samples"):
        open_results("study", tmp_path).ranking()


def test_tables_hold_one_row_a_trial_and_one_row_a_result(tmp_path: Path) -> None:
    write_study(tmp_path / "study")
    write_tables(tmp_path / "study")
    trials = pq.read_table(tmp_path / "study" / "trials.parquet").to_pylist()
    curves = pq.read_table(tmp_path / "study" / "curves.parquet").to_pylist()
    assert [row["state"] for row in trials] == ["completed", "completed", "completed", "stopped", "diverged"]
    assert [row["param/mu"] for row in trials] == ["0.0", "0.1", "0.2", "0.3", "0.9"]
    assert trials[4]["eval/fid"] is None
    assert [(row["trial"], row["images"], row["eval/fid"]) for row in curves[:2]] == [
        ("0000", 100, 4.0),
        ("0000", 200, 3.0),
    ]
    assert len(curves) == 7


def test_a_study_is_found_by_name_or_by_folder_and_a_missing_one_names_the_known(tmp_path: Path) -> None:
    write_study(tmp_path / "study")
    assert open_results(tmp_path / "study").name == "study"
    assert [results.name for results in all_results(tmp_path)] == ["study"]
    with pytest.raises(StudyError, match="Known: study"):
        open_results("studdy", tmp_path)
