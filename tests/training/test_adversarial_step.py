"""A discriminator in a training: its own optimizer in the same step, and its place in checkpoints."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gcsearch.science.discriminators import told_apart
from gcsearch.science.objectives.ctm import ConsistencyTrajectory
from gcsearch.science.randomness import derive_seed
from gcsearch.training import Trainer, load_checkpoint

AFTER = 5 * 32


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return tmp_path_factory.mktemp("denoiser")


@pytest.fixture
def trajectory(tiny, digits, denoiser):
    """Makes a training with the objective ctm and a discriminator that sets in after five steps."""
    path = denoiser / "checkpoints" / "latest.pt"
    if not path.exists():
        first = tiny(coupling="independent", objective="denoising", training={"num_images": 500})
        Trainer(first, examples=digits, directory=denoiser).fit()

    def make(**fields):
        fields = {"discriminator": {"name": "perceptron", "width": 8}, "adversarial_after": AFTER, **fields}
        teacher = {"name": "checkpoint", "path": str(path)}
        objective = {"name": "ctm", "num_levels": 5, "solver_steps": 2, "target_ema": 0.9, "teacher": teacher, **fields}
        return tiny(
            coupling="independent",
            objective=objective,
            optimizer={"name": "adam", "lr": 1e-3},
            training={"num_images": 640},
        )

    return make


def trained(experiment, examples, steps):
    trainer = Trainer(experiment, examples=examples)
    for _ in range(steps):
        trainer.train_step()
    return trainer


def state(learner):
    parts = (learner.network, learner.average, learner.target, learner.optimizer, learner.companion,
             learner.companion_optimizer)  # fmt: skip
    return copy.deepcopy([part.state_dict() for part in parts if part is not None])


def same(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_weight_of_zero_and_the_steps_before_its_time_are_those_without_it_to_the_last_bit(trajectory, digits):
    without = trained(trajectory(discriminator=None), digits, 5).learner
    zero = trained(trajectory(adversarial=0.0, adversarial_after=0), digits, 5).learner
    assert zero.companion is None
    same(state(zero), state(without))
    early = trained(trajectory(), digits, 5)
    same(state(early.learner)[:4], state(without))
    before = copy.deepcopy(early.learner.network.state_dict())
    fresh = trajectory().new_companion(derive_seed(0, "initialization", 1))
    same(early.learner.companion.state_dict(), fresh.state_dict())
    early.train_step()
    with pytest.raises(AssertionError):
        same(early.learner.companion.state_dict(), fresh.state_dict())
    assert any((before[name] != value).any() for name, value in early.learner.network.state_dict().items())


def test_the_discriminator_takes_the_step_of_its_own_optimizer_on_its_own_loss(trajectory, digits, monkeypatch):
    trainer = trained(trajectory(), digits, 6)  # one with the term, so that its optimizer has a state
    learner, seen = trainer.learner, []
    monkeypatch.setattr(
        "gcsearch.science.objectives.ctm.told_apart",
        lambda module, real, made: seen.append((real, made.detach())) or told_apart(module, real, made),
    )
    expected = copy.deepcopy(learner.companion)
    optimizer = trainer.experiment.objective.discriminator.optimizer.build(expected.parameters())
    optimizer.load_state_dict(copy.deepcopy(learner.companion_optimizer.state_dict()))
    trainer.train_step()
    ((real, made),) = seen
    same(real, trainer.batches[6])
    optimizer.zero_grad()
    ((1 - expected(real)).clamp(min=0).mean() + (1 + expected(made)).clamp(min=0).mean()).backward()
    optimizer.step()
    torch.testing.assert_close(learner.companion.state_dict(), expected.state_dict())


@pytest.mark.parametrize("cut", [3, 11])
def test_a_training_cut_before_or_after_the_discriminator_sets_in_goes_on_as_if_it_had_not_been(
    trajectory, digits, tmp_path, cut
):
    experiment = trajectory()
    whole = Trainer(experiment, examples=digits)
    expected = whole.fit()
    part = Trainer(experiment, examples=digits, directory=tmp_path, checkpoint_seconds=-1.0,
                   should_stop=lambda: part.step >= cut)  # fmt: skip
    assert part.fit().state == "stopped"
    stored = load_checkpoint(tmp_path / "checkpoints" / "latest.pt")
    assert stored.step == cut
    assert bool(stored.companion_optimizer["state"]) == (cut * 32 > AFTER)
    resumed = Trainer(experiment, examples=digits, directory=tmp_path)
    outcome = resumed.fit()
    same(state(resumed.learner), state(whole.learner))
    for name in ("eval/fid", "train/loss", "cost/forward_units"):
        assert outcome.results[-1].metrics[name] == expected.results[-1].metrics[name]


class Reads(TorchDispatchMode):
    """Counts the operations whose result the host needs."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in {"_local_scalar_dense", "is_nonzero", "nonzero", "equal"}:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def test_the_term_reads_nothing_from_the_device(trajectory, digits):
    names = []
    for experiment in (trajectory(discriminator=None), trajectory()):
        trainer = trained(experiment, digits, 6)
        trainer.learner.waits = False
        with Reads() as reads:
            trainer.train_step()
        names.append(reads.names)
    assert names[0] == names[1]


@pytest.mark.parametrize("waits", [True, False])
def test_a_discriminator_that_diverges_ends_the_training_with_everything_as_it_was(
    trajectory, digits, monkeypatch, waits
):
    original = ConsistencyTrajectory.__call__

    def call(self, recipe, models, data, draws, step, num_steps):
        terms = original(self, recipe, models, data, draws, step, num_steps)
        return dataclasses.replace(terms, beside=terms.beside * float("inf")) if step == 8 else terms

    monkeypatch.setattr(ConsistencyTrajectory, "__call__", call)
    experiment = trajectory()
    trainer, expected = Trainer(experiment, examples=digits), trained(experiment, digits, 8)
    trainer.learner.waits = waits
    outcome = trainer.fit()
    assert (outcome.state, trainer.step) == ("diverged", 8)
    assert "step 9: loss is inf" in outcome.reason
    torch.testing.assert_close(state(trainer.learner), state(expected.learner), rtol=0, atol=0 if waits else 1e-7)
