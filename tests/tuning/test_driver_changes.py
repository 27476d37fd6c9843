"""Going on with a study: what may have changed in it since, and what may not."""

from __future__ import annotations

import pytest

from gcsearch.errors import DataError, StudyError
from gcsearch.ledger import LEDGER_NAME, LedgerWriter, StudyState
from gcsearch.metrics.features import DigitsExtractor
from gcsearch.tuning.search_driver import SearchDriver
from gcsearch.tuning.study import run_study

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.mark.parametrize(
    ("change", "old", "new"),
    [
        ({"space": {"coupling.mu": {"min": 0.0, "max": 0.9}}}, "max: 1.0", "max: 0.9"),
        ({"stopping": {"factor": 3}}, "factor: 2", "factor: 3"),
        ({"stopping": "none"}, "asha", "none"),
        ({"objective": {"metric": "fid_online"}}, "metric: fid,", "metric: fid_online"),
        ({"objective": {"use": "best"}}, "use: last", "use: best"),
    ],
    ids=["space", "factor", "stopping", "metric", "use"],
)
def test_a_changed_study_is_refused_with_both_values(load, sections, run, lines_of, tmp_path, change, old, new):
    study = load()
    run(study, tmp_path / study.name)
    run_study(study, tmp_path)
    before = lines_of(tmp_path / study.name)
    changed = {
        key: sections.get(key, {}) | values if isinstance(values, dict) else values for key, values in change.items()
    }
    with pytest.raises(StudyError) as caught:
        run_study(load(**changed), tmp_path)
    removed = [line for line in str(caught.value).splitlines() if line.startswith("    -")]
    added = [line for line in str(caught.value).splitlines() if line.startswith("    +")]
    assert any(old in line for line in removed)
    assert any(new in line for line in added)
    assert len(removed) <= (9 if change.get("stopping") == "none" else 2)  # all fields of the rule, or one line
    assert "--name" in str(caught.value)
    assert lines_of(tmp_path / study.name) == before


def test_a_changed_experiment_is_refused_with_both_values(load, run, tmp_path):
    study = load()
    run(study, tmp_path / study.name)
    run_study(study, tmp_path)
    changed = load(assignments=["optimizer.lr=1e-3"])
    with pytest.raises(StudyError) as caught:
        run_study(changed, tmp_path)
    assert "lr: 0.0005" in str(caught.value)
    assert "lr: 0.001" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"budget": {"trials": 9, "wall_hours": 100}},
        {"resources": {"concurrent": 7}},
        {"search": {"sampler": "random", "seed": 99}},
    ],
    ids=["nothing", "budget", "resources", "search"],
)
def test_what_does_not_touch_the_trials_may_change(load, run, tmp_path, change):
    study = load()
    run(study, tmp_path / study.name)
    run_study(study, tmp_path)
    assert len(run_study(load(**change), tmp_path).trials) == 9


def test_numbers_and_odd_words_of_a_space_survive_the_study_file(load, tmp_path):
    space = {
        "optimizer": {
            "values": [
                {"name": "lion", "lr": {"min": 1e-05, "max": 1e-3, "scale": "log"}},
                {"name": "adam", "lr": {"min": 1e-4, "max": 12345678.9, "scale": "log"}, "betas": [0.9, 0.999]},
            ]
        },
        "coupling.mu_end": {"values": [None, 1, 0.1]},
        "training.compile": {"values": [False, True]},
        "network.dropout": {"min": 0, "max": 0.5, "when": {"optimizer.name": ["lion", "on", "1e3", "null", "~"]}},
    }
    study = load(space=space, budget={"trials": 2})
    with LedgerWriter(tmp_path / study.name / LEDGER_NAME) as ledger:
        driver = SearchDriver(study, tmp_path / study.name, ledger, StudyState())
        while record := driver.next_trial():
            driver.end(record.trial, "completed")
    for _ in range(3):
        run_study(study, tmp_path)


def test_two_drivers_on_one_study_are_refused(run, study, tmp_path):
    run(study, tmp_path / study.name)
    with (
        LedgerWriter(tmp_path / study.name / LEDGER_NAME),
        pytest.raises(StudyError, match="another process is writing this study"),
    ):
        run_study(study, tmp_path)


def test_missing_weights_of_the_extractor_stop_a_study_before_anything_is_written(load, tmp_path, monkeypatch):
    def missing(self):
        raise DataError("extractor 'digits': no weights.")

    monkeypatch.setattr(DigitsExtractor, "prepare", missing)
    with pytest.raises(DataError, match="no weights"):
        run_study(load(), tmp_path / "studies")
    assert not (tmp_path / "studies").exists()
