"""What may be wrong with a study: each warning where it is due, and not where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gcsearch.analysis.health import findings
from gcsearch.analysis.results import StudyResults
from gcsearch.config import Experiment
from gcsearch.config.documents import dump_yaml
from gcsearch.ledger import StudyState

SPACE = {
    "coupling.mu": {"min": 0.0, "max": 1.0},
    "network.dropout": {"min": 0.0, "max": 0.3},
    "coupling.predictor": {"values": ["ema", "online"]},
    "optimizer": {
        "values": [
            {"name": "lion", "lr": {"min": 1e-5, "max": 1e-3, "scale": "log"}},
            {"name": "adam", "lr": {"min": 1e-4, "max": 1e-2, "scale": "log"}},
        ]
    },
}
BASE = {"name": "tiny", "data": "digits", "coupling": {"name": "generator", "mu": 0.5}}


@pytest.fixture
def study(tmp_path: Path):
    """Makes results of trials given as (parameters, score or state)."""

    def make(trials):
        (tmp_path / "study.yaml").write_text(dump_yaml({"name": "s", "space": SPACE}))
        time = {"time": "2026-01-01T00:00:00+00:00"}
        objective = {"metric": "fid", "key": "eval/fid", "goal": "minimize", "use": "last"}
        events = [{"event": "study_started", "study": "s", "objective": objective, "horizon_images": 100}]
        for number, (params, outcome) in enumerate(trials):
            trial = f"{number:04d}"
            optimizer = {"name": params.get("optimizer", "lion"), "lr": params.get("optimizer.lr", 1e-4)}
            config = BASE | {
                "optimizer": optimizer,
                "coupling": BASE["coupling"] | {"mu": params.get("coupling.mu", 0.5)},
                "network": {"name": "mlp", "dropout": params.get("network.dropout", 0.0)},
            }
            built = Experiment.from_dict(config, source="test").to_dict()
            start = {"event": "trial_started", "trial": trial, "params": params, "config": built}
            events.append(start | {"recipe": dump_yaml(config)})
            if isinstance(outcome, float):
                events.append({"event": "result", "trial": trial, "images": 100, "metrics": {"eval/fid": outcome}})
            state = "completed" if isinstance(outcome, float) else outcome
            events.append({"event": "trial_ended", "trial": trial, "state": state})
        return StudyResults(directory=tmp_path, state=StudyState([event | time for event in events]))

    return make


def test_a_parameter_that_matters_to_one_objective_of_several_is_no_finding(study):
    random = np.random.default_rng(0)
    mus, scores, noise = random.random(30), random.random(30), random.random(30)
    found = []
    for costs in (mus, noise):
        results = study([({"coupling.mu": float(mu)}, float(score)) for mu, score in zip(mus, scores, strict=True)])
        cost = {"metric": "train_seconds", "key": "cost/train_seconds", "goal": "minimize", "use": "last"}
        results.state.study["objectives"] = [results.state.study["objective"], cost]
        for record, value in zip(results.searched(), costs, strict=True):
            record.results[0].metrics["cost/train_seconds"] = float(value)
        found.append(("no_effect", "coupling.mu") in kinds(results))
    assert found == [False, True]


def kinds(results):
    return [(finding.kind, finding.key) for finding in findings(results)]


def test_a_best_value_at_the_edge_of_its_range_is_named_with_the_end_to_move(study):
    results = study([({"optimizer": "lion", "optimizer.lr": 9.9e-4, "coupling.mu": 0.5}, 1.0)])
    assert kinds(results) == [("edge", "optimizer.lr")]
    assert "move max beyond 0.001" in findings(results)[0].text
    assert kinds(study([({"optimizer": "adam", "optimizer.lr": 9.9e-4, "coupling.mu": 0.5}, 1.0)])) == []
    assert kinds(study([({"network.dropout": 0.3}, 1.0), ({"network.dropout": 0.1}, 2.0)])) == [
        ("edge", "network.dropout")
    ]


@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_an_edge_that_the_recipe_itself_has_is_no_warning(study, mu):
    assert kinds(study([({"coupling.mu": mu, "network.dropout": 0.0}, 1.0)])) == []


def test_many_diverged_trials_are_counted_with_what_they_have_in_common(study):
    good = [({"optimizer": "lion", "optimizer.lr": 1e-4 * (1 + n / 10)}, float(n)) for n in range(6)]
    bad = [({"optimizer": "lion", "optimizer.lr": 5e-4 * (1 + n / 10)}, "diverged") for n in range(3)]
    found = findings(study(good + bad))
    assert found[0].kind == "diverged"
    assert "3 of 9 trials diverged, all with optimizer.lr of 0.0005 or more" in found[0].text
    assert "diverged" not in dict(kinds(study(good + bad[:1])))
    words = [({"coupling.predictor": "online", "network.dropout": 0.1 + n / 50}, "diverged") for n in range(3)]
    others = [({"coupling.predictor": "ema", "network.dropout": 0.1 + n / 60}, float(n)) for n in range(5)]
    assert "all with coupling.predictor online" in findings(study(others + words))[0].text


def test_a_parameter_without_effect_is_named_and_one_with_an_optimum_in_the_middle_is_not(study):
    random = np.random.default_rng(0)
    trials = []
    for number in range(30):
        params = {"coupling.mu": float(random.random()), "coupling.predictor": ["ema", "online"][number % 2]}
        noise = 0.05 * (number // 2 % 5 - 2)
        trials.append((params, 4 * (params["coupling.mu"] - 0.5) ** 2 + noise))
    trials[1::2] = [({**one[0], "coupling.predictor": "online", "network.dropout": 0.1}, one[1]) for one in trials[::2]]
    found = dict((key, kind) for kind, key in kinds(study(trials)))
    assert found.get("coupling.predictor") == "no_effect"
    assert "coupling.mu" not in found
    assert "coupling.predictor" not in dict((key, kind) for kind, key in kinds(study(trials[:10])))


def test_repeated_recipes_are_counted(study):
    results = study([({"coupling.mu": 0.5}, 1.0), ({"coupling.mu": 0.5}, 1.0), ({"coupling.mu": 0.4}, 2.0)])
    assert kinds(results) == [("duplicates", None)]
    assert "Repeated with the same seed: 1 of the trials (0000, 0001)" in findings(results)[0].text
