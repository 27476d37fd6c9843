"""Divergence and collapse end a training as an outcome, before anything has moved."""

import copy
import dataclasses

import pytest
import torch

from gcsearch.errors import TrialDiverged
from gcsearch.science.objectives.consistency import Consistency
from gcsearch.training import Trainer
from gcsearch.training.judge import Judgement


def state(trainer):
    learner = trainer.learner
    return copy.deepcopy(
        {
            "network": learner.network.state_dict(),
            "average": learner.average.state_dict(),
            "optimizer": learner.optimizer.state_dict()["state"],
            "step": trainer.step,
        }
    )


def fit_watched(trainer):
    """Outcome, and the state before the last step that was begun."""
    before, train_step = {}, trainer.train_step

    def watched():
        before.update(state(trainer))
        train_step()

    trainer.train_step = watched
    return trainer.fit(), before


def broken(monkeypatch, change, at_step):
    """Replace the objective's terms from a step on."""
    original = Consistency.__call__

    def call(self, recipe, models, data, draws, step, num_steps):
        terms = original(self, recipe, models, data, draws, step, num_steps)
        return change(terms, models) if step >= at_step else terms

    monkeypatch.setattr(Consistency, "__call__", call)


def with_loss(factor):
    return lambda terms, _: dataclasses.replace(terms, loss=terms.loss * factor)


def with_bad_gradient(terms, models):
    weight = next(models.online.network.parameters())
    return dataclasses.replace(terms, loss=terms.loss + (weight.sum() * 0).sqrt())


CHANGES = {
    "nan loss": with_loss(float("nan")),
    "infinite loss": with_loss(float("inf")),
    "negative infinite loss": with_loss(float("-inf")),
    "nan gradient of a finite loss": with_bad_gradient,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
def test_a_loss_or_gradient_that_is_not_finite_ends_the_training_before_anything_moves(
    tiny, digits, monkeypatch, change, optimizer
):
    broken(monkeypatch, change, at_step=20)
    trainer = Trainer(tiny(optimizer={"name": optimizer, "lr": 3e-3, "weight_decay": 0.1}), examples=digits)
    outcome, before = fit_watched(trainer)
    assert outcome.state == "diverged"
    assert outcome.reason is not None
    assert "step 21" in outcome.reason
    assert "must be finite" in outcome.reason
    assert [result.images for result in outcome.results] == [500]
    after = state(trainer)
    assert (before["step"], after["step"]) == (20, 20)
    for part in ("network", "average", "optimizer"):
        torch.testing.assert_close(after[part], before[part], rtol=0, atol=0)
    assert all(torch.isfinite(value).all() for value in after["network"].values())


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_at_the_first_step_too(tiny, digits, monkeypatch, change):
    broken(monkeypatch, change, at_step=0)
    trainer = Trainer(tiny(), examples=digits)
    outcome, before = fit_watched(trainer)
    assert (outcome.state, outcome.results) == ("diverged", ())
    torch.testing.assert_close(state(trainer), before, rtol=0, atol=0)


@pytest.mark.parametrize(("optimizer", "lr"), [("lion", 1e30), ("adam", 1e30), ("radam", 1e36)])
def test_an_exploding_learning_rate_ends_as_diverged(tiny, digits, optimizer, lr):
    trainer = Trainer(tiny(optimizer={"name": optimizer, "lr": lr}), examples=digits)
    outcome, before = fit_watched(trainer)
    assert outcome.state == "diverged"
    assert outcome.reason
    after = state(trainer)
    for part in ("network", "average", "optimizer"):
        torch.testing.assert_close(after[part], before[part], rtol=0, atol=0, equal_nan=True)


def test_a_diverged_training_writes_no_checkpoint_of_the_divergence(tiny, digits, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        broken(patch, with_loss(float("nan")), at_step=20)
        assert Trainer(tiny(), examples=digits, directory=tmp_path).fit().state == "diverged"
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["best.pt", "latest.pt"]
    whole, resumed = Trainer(tiny(), examples=digits), Trainer(tiny(), examples=digits, directory=tmp_path)
    whole.fit()
    assert resumed.fit().state == "completed"
    torch.testing.assert_close(state(resumed), state(whole), rtol=0, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_divergence_and_no_result(tiny, digits, tmp_path, value):
    reported = []
    trainer = Trainer(tiny(), examples=digits, directory=tmp_path, report=reported.append)
    judge = trainer.judge

    class Spoiled(type(judge)):
        def __init__(self):
            vars(self).update(vars(judge))

        def __call__(self, models, step):
            scores = judge(models, step).scores
            spoiled = scores | ({"eval/fid_online": value} if reported else {})
            return Judgement(scores=spoiled, identities={}, collapsed=False)

    trainer.judge = Spoiled()
    outcome = trainer.fit()
    assert outcome.state == "diverged"
    assert "1000 images" in outcome.reason
    assert "eval/fid_online must be finite" in outcome.reason
    assert [result.images for result in reported] == [result.images for result in outcome.results] == [500]


def test_weights_that_are_not_finite_are_found_by_the_evaluation(tiny, digits):
    trainer = Trainer(tiny(), examples=digits)
    with torch.no_grad():
        next(trainer.learner.average.parameters()).fill_(float("nan"))
    trainer.step = 16
    with pytest.raises(TrialDiverged, match=r"^500 images: .*eval/fid.* must be finite"):
        trainer.evaluate()
    assert trainer.results == []


@pytest.mark.parametrize("on_points", [False, True])
def test_a_network_that_says_the_same_for_everything_has_collapsed(tiny, points, on_points, tmp_path):
    sections = {"optimizer": {"name": "lion", "lr": 1e-12}}
    experiment = tiny(points, **sections) if on_points else tiny(**sections)
    reported = []
    trainer = Trainer(experiment, directory=tmp_path, report=reported.append)
    with torch.no_grad():
        for network in (trainer.learner.network, trainer.learner.average):
            for weight in network.parameters():
                weight.zero_()
    outcome = trainer.fit()
    assert outcome.state == "diverged"
    assert [result.images for result in reported] == [500], "the first rung may be too early to tell"
    assert outcome.reason.startswith("1000 images: ")
    assert "collapsed" in outcome.reason


def test_an_error_of_ours_is_not_taken_for_divergence(tiny, digits):
    def fail(_):
        raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        Trainer(tiny(), examples=digits, report=fail).fit()
