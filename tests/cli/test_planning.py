"""`gcsearch plan` and `gcsearch replay`: a user asks before paying."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gcsearch.config.documents import dump_yaml
from gcsearch.ledger import LEDGER_NAME
from gcsearch.tuning.replay import simulate

from .command import gcsearch
from .test_main import TINY

STUDY = {
    "name": "small",
    "experiment": "tiny.yaml",
    "space": {"coupling.mu": {"min": 0.0, "max": 1.0}, "coupling.predictor": {"values": ["ema", "online"]}},
    "budget": {"trials": 9},
    "stopping": {"name": "asha", "min_images": 1024, "factor": 2},
    "finalists": {"top": 2, "seeds": [1, 2, 3]},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(dump_yaml(TINY))
    (tmp_path / "small.yaml").write_text(dump_yaml(STUDY))
    return tmp_path


def test_a_plan_shows_space_rungs_cost_and_power_and_starts_nothing(folder):
    before = sorted(folder.rglob("*"))
    done = gcsearch("plan", "small.yaml", "--trials", "12", cwd=folder)
    assert done.returncode == 0, done.stderr
    for part in ("coupling.mu: 0 to 1", "stopping decides", "full length", "images/s"):
        assert part in done.stdout
    for part in ("Search: 12 trials", "Finalists: 6 full trainings", "Nothing was started."):
        assert part in done.stdout
    assert sorted(folder.rglob("*")) == before


def test_a_plan_as_json_is_one_object(folder):
    plan = json.loads(gcsearch("plan", "small.yaml", "--json", cwd=folder).stdout)
    assert plan["study"] == "small"
    assert plan["counts"]["trials"] == plan["counts"]["reached"]["1024"] == 9
    assert plan["search"]["device_hours"] > 0
    assert plan["num_finalists"] == 6


def test_a_plan_of_a_wrong_file_is_the_error_of_run(folder):
    (folder / "small.yaml").write_text(dump_yaml(STUDY | {"space": {"coupling.muu": {"min": 0, "max": 1}}}))
    done = gcsearch("plan", "small.yaml", cwd=folder)
    assert done.returncode == 2
    assert "no key 'muu'. Did you mean 'mu'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A folder with a study of nine full-length curves."""
    ledger = simulate(
        {"x": {"min": 0.0, "max": 1.0}},
        {"sampler": {"name": "grid", "points": 9}},
        "none",
        lambda params, images: params["x"] + 100 / images,
        goal="minimize",
        horizon_images=900,
        budget_images=10**9,
        num_workers=1,
        seed=0,
        every_images=100,
    )
    study = tmp_path / "studies" / "curves"
    study.mkdir(parents=True)
    (study / LEDGER_NAME).write_text("".join(json.dumps(event) + "\n" for event in ledger.events))
    return tmp_path


def test_replay_compares_rules_with_the_study_as_it_ran(recorded):
    rules = ("{name: asha, factor: 3}", "median", "none")
    options = [part for rule in rules for part in ("--stopping", rule)]
    found = json.loads(gcsearch("replay", "curves", *options, "--json", cwd=recorded).stdout)
    assert found["as_run"]["images"] == 9 * 900
    asha, median, none = found["replays"]
    assert none["images"] == 9 * 900
    assert asha["images"] < median["images"] < none["images"]
    assert [one["loss"] for one in found["replays"]] == [0.0, 0.0, 0.0]  # the best curve is best from the beginning
    text = gcsearch("replay", "curves", *options, cwd=recorded).stdout
    assert "as run: none" in text
    assert "{name: asha, factor: 3}" in text


@pytest.mark.parametrize(
    ("rule", "part"),
    [
        ("ashaa", "asha"),
        ("{name: asha, min_images: 150}", "one where this study was evaluated, got 150"),
        ("[", "YAML"),
    ],
)
def test_a_wrong_rule_is_one_clear_line(recorded, rule, part):
    done = gcsearch("replay", "curves", "--stopping", rule, cwd=recorded)
    assert done.returncode == 2
    assert part in done.stderr
    assert "Traceback" not in done.stderr
