"""Diagnostics inside a training: they arrive in its results and change nothing else."""

from __future__ import annotations

import math

import pyarrow.parquet as pq
import pytest
import torch

from gcsearch.analysis.results import write_tables
from gcsearch.metrics import ModelMetric, metrics
from gcsearch.metrics.diagnostics import Diagnostics
from gcsearch.training.session import run_training
from gcsearch.training.trainer import Trainer

BOTH = {"metrics": ["fid", {"name": "diagnostics", "num_batches": 2, "denoiser_steps": 2}]}


def deterministic(result):
    """Numbers of a result that do not depend on the clock, without the diagnostics."""
    timed = ("cost/train_seconds", "cost/evaluation_seconds", "progress/images_per_second")
    return {
        name: value
        for name, value in result.metrics.items()
        if name not in timed and not name.startswith("diagnostics/")
    }


def diagnostics(result):
    return {name: value for name, value in result.metrics.items() if name.startswith("diagnostics/")}


@pytest.mark.parametrize("predictor", ["ema", "online"])
def test_training_gives_the_same_bits_with_and_without_diagnostics(tiny, digits, predictor):
    trainers = [
        Trainer(
            tiny(evaluation=evaluation, coupling={"predictor": predictor}, network={"dropout": 0.3}), examples=digits
        )
        for evaluation in ({}, BOTH)
    ]
    plain, measured = [trainer.fit().results for trainer in trainers]
    assert [deterministic(result) for result in measured] == [deterministic(result) for result in plain]
    assert [result.identities for result in measured] == [result.identities for result in plain]
    for part in ("network", "average", "optimizer"):
        states = [getattr(trainer.learner, part).state_dict() for trainer in trainers]
        torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    expected = {
        f"diagnostics/{key}" for key in ("gradient_variance", "transport_cost", "ode_distance", "path_deviation")
    }
    assert all(set(diagnostics(result)) == expected for result in measured)
    assert len({tuple(diagnostics(result).values()) for result in measured}) == len(measured)


def test_recipes_and_seeds_are_measured_on_the_same_batches_and_another_evaluation_seed_on_others(tiny, digits):
    judges = [
        Trainer(tiny(evaluation=BOTH, **parts), examples=digits).judge
        for parts in ({}, {"coupling": {"name": "independent"}, "timesteps": {"num_levels": 7}}, {"seed": 5})
    ]
    first, *others = [judge._batch(1) for judge in judges]
    for data, draws in others:
        torch.testing.assert_close(data, first[0], rtol=0, atol=0)
        torch.testing.assert_close(vars(draws), vars(first[1]), rtol=0, atol=0)
    other = Trainer(tiny(evaluation={**BOTH, "seed": 1}), examples=digits).judge._batch(1)
    assert (other[0] != first[0]).any()
    assert (other[1].noise != first[1].noise).any()
    assert (judges[0]._batch(0)[0] != first[0]).any()


def test_diagnostic_batches_are_not_those_of_training(tiny, digits):
    trainer = Trainer(tiny(evaluation=BOTH), examples=digits)
    assert all((trainer.judge._batch(0)[0] != trainer.batches[step]).any() for step in range(3))


def test_schedules_stand_where_the_last_step_left_them(tiny, digits):
    cost = {}
    for name, coupling in (
        ("generated", {"mu": 1.0, "predictor": "online"}),
        ("begun", {"mu": 1.0, "predictor": "online", "start": 0.9}),
        ("independent", {"name": "independent"}),
    ):
        experiment = tiny(
            coupling=coupling,
            evaluation={**BOTH, "every_images": 100},
            training={"num_images": 200, "batch_size": 10},
            optimizer={"lr": 1e-9},
        )
        cost[name] = [
            result.metrics["diagnostics/transport_cost"]
            for result in Trainer(experiment, examples=digits).fit().results
        ]
    # Weights hardly move: halfway nothing is generated, at the end everything still is, as it was at the last step.
    assert cost["begun"][0] == pytest.approx(cost["independent"][0], rel=1e-6)
    assert cost["begun"][1] == pytest.approx(cost["generated"][1], rel=1e-6)
    assert cost["begun"][1] != pytest.approx(cost["independent"][1], rel=1e-3)


def test_transport_cost_of_independent_coupling_on_the_papers_toy_is_its_closed_form(tiny, points):
    experiment = tiny(
        points,
        data={"name": "gaussians_1m2m", "num_points": 10_000},
        coupling={"name": "independent"},
        training={"num_images": 2_000, "batch_size": 1_000},
        evaluation={"every_images": 2_000, "metrics": ["fid", "diagnostics"]},
    )
    (result,) = Trainer(experiment).fit().results
    assert result.metrics["diagnostics/transport_cost"] == pytest.approx(0.25 + 2 * (0.01**2 + 1), rel=0.03)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diagnostic_that_is_not_finite_ends_the_trial_as_diverged(tiny, digits, monkeypatch, value):
    monkeypatch.setattr(Diagnostics, "measure", lambda *_: {"gradient_variance": value})
    outcome = Trainer(tiny(evaluation=BOTH), examples=digits).fit()
    assert outcome.state == "diverged"
    assert "diagnostics/gradient_variance must be finite" in outcome.reason
    assert outcome.results == ()


def test_every_diagnostic_of_the_registry_keeps_to_its_keys(tiny, digits):
    judge = Trainer(tiny(), examples=digits).judge
    assert judge.diagnose(Trainer(tiny(), examples=digits).learner.models, 0) == {}
    for cls in (metrics[name] for name in metrics):
        if issubclass(cls, ModelMetric):
            trainer = Trainer(tiny(evaluation={"metrics": ["fid", cls.name]}), examples=digits)
            names = set(trainer.judge.diagnose(trainer.learner.models, 0))
            assert names
            assert names <= {f"diagnostics/{key}" for key in cls().keys}


def test_diagnostics_of_a_run_become_columns_of_its_curves(tiny, tmp_path):
    run_training(tiny(evaluation=BOTH), tmp_path)
    write_tables(tmp_path)
    curves = pq.read_table(tmp_path / "curves.parquet").to_pydict()
    for key in Diagnostics(denoiser_steps=1).keys:
        values = curves[f"diagnostics/{key}"]
        assert len(values) == len(curves["eval/fid"]) == 4
        assert all(math.isfinite(value) for value in values)
