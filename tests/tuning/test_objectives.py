"""Objectives with a module, an average or a teacher beside the network, as trials of one study, without a cluster."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from gcsearch.ledger import LEDGER_NAME, LedgerWriter, StudyState, read_events
from gcsearch.training import load_checkpoint
from gcsearch.training.distributed import Group
from gcsearch.tuning import trial
from gcsearch.tuning.execution import Execution, LedgerScheduler, LedgerSearcher
from gcsearch.tuning.search_driver import SearchDriver
from gcsearch.tuning.trial import MESSAGE

TEACHER = {"name": "trained", "num_images": 64, "batch_size": 64}
OBJECTIVES = {
    "scm": {"name": "scm"},
    "facm": {"name": "facm"},
    "ctm": {
        "name": "ctm",
        "num_levels": 4,
        "solver_steps": 2,
        "discriminator": {"name": "perceptron", "width": 8},
        "adversarial_after": 64,
        "teacher": TEACHER,
    },
}


@pytest.mark.usefixtures("quick_disk")
def test_continuous_and_trajectory_objectives_are_trials_of_one_study(load, tmp_path, monkeypatch):
    monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path / "cache"))
    study = load(
        space={"objective": {"values": list(OBJECTIVES.values())}},
        search={"sampler": {"name": "grid"}},
        stopping="none",
        assignments=[
            "process={name: trig, sigma_data: 0.75}",
            "coupling=independent",
            "training.num_images=192",
            "evaluation.every_images=96",
            "evaluation.num_samples=16",
        ],
    )
    (teacher,) = study.prepare()
    assert teacher.images == 64
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = SearchDriver(study, tmp_path, ledger, StudyState())
        execution = Execution(driver, study.resources, 1, [])
        searcher, scheduler = LedgerSearcher(execution), LedgerScheduler(execution)
        for number in range(len(OBJECTIVES)):
            config = searcher.suggest(str(number))

            def send(config=config, **content):
                tried = SimpleNamespace(config=config, pickled_error_file=None)
                scheduler.on_trial_result(None, tried, {MESSAGE: json.dumps(content)})

            trial._train(config, send, "cpu", Group())
        driver.finish()

    state = StudyState(read_events(tmp_path / LEDGER_NAME))
    assert [record.state for record in state.trials.values()] == ["completed"] * 3
    assert {record.config["objective"]["name"] for record in state.trials.values()} == set(OBJECTIVES)
    for name, record in state.trials.items():
        assert [result.images for result in record.results] == [96, 192]
        assert all(result.metrics["eval/fid"] > 0 for result in record.results)
        checkpoint = load_checkpoint(tmp_path / "trials" / name / "checkpoints" / "latest.pt")
        objective = record.config["objective"]["name"]
        assert bool(checkpoint.companion) == (objective in ("scm", "ctm"))
        assert bool(checkpoint.target) == (checkpoint.teacher_sha256 is not None) == (objective == "ctm")
