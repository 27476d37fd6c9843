"""Steps that nobody waits for, as on a GPU: on the CPU, by a learner that is told not to wait."""

import copy
import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gcsearch.data.batches import Batches
from gcsearch.science.objectives.consistency import Consistency
from gcsearch.science.optimizers import RAdam
from gcsearch.science.randomness import draw_step
from gcsearch.training import Trainer
from gcsearch.training.step import Learner

CPU = torch.device("cpu")
READS = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "unique_dim", "_unique2"}
"""Operations whose result the host needs: on a GPU, each waits for it."""


class Reads(TorchDispatchMode):
    """Names of the operations that read from the device."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in READS:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def deferred(experiment, examples):
    trainer = Trainer(experiment, examples=examples)
    trainer.learner.waits = False
    return trainer


@pytest.mark.parametrize("coupling", ["independent", "generator"])
@pytest.mark.parametrize("optimizer", ["lion", "adam", "adamw", "radam"])
def test_a_step_reads_nothing_from_the_device(tiny, digits, coupling, optimizer):
    experiment = tiny(
        coupling=coupling, optimizer={"name": optimizer}, network={"dropout": 0.1}, timesteps={"name": "exponential"}
    )
    trainer = deferred(experiment, digits)
    trainer.train_step()  # sets up
    with Reads() as reads:
        for _ in range(3):
            trainer.train_step()
    assert reads.names == []
    trainer.learner.waits = True
    with Reads() as reads:
        trainer.train_step()
    assert reads.names == ["_local_scalar_dense"]


def broken(monkeypatch, change, at_step):
    original = Consistency.__call__

    def call(self, recipe, models, data, draws, step, num_steps):
        terms = original(self, recipe, models, data, draws, step, num_steps)
        return change(terms, models) if step == at_step else terms

    monkeypatch.setattr(Consistency, "__call__", call)


def bad_gradient(terms, models):
    weight = next(models.online.network.parameters())
    return dataclasses.replace(terms, loss=terms.loss + (weight.sum() * 0).sqrt())


def bad_loss(terms, _):
    return dataclasses.replace(terms, loss=terms.loss * float("inf"))


def state(trainer):
    learner = trainer.learner
    parts = (learner.network, learner.average, learner.predictor_average, learner.optimizer)
    return copy.deepcopy([part.state_dict() for part in parts])


@pytest.mark.parametrize("change", [bad_gradient, bad_loss])
@pytest.mark.parametrize("optimizer", ["lion", "adam", "adamw", "radam"])
def test_a_divergence_that_is_found_out_late_leaves_all_as_it_was_before_that_step(
    tiny, digits, monkeypatch, change, optimizer
):
    # Only step 20 is broken: the steps after it, before anyone looks, are sound and must not move anything either.
    broken(monkeypatch, change, at_step=20)
    experiment = tiny(
        optimizer={"name": optimizer, "lr": 3e-3, "weight_decay": 0.1},
        coupling={"name": "generator", "predictor_ema": [{"name": "power_warmup", "period": 3}]},
    )
    waiting, late = Trainer(experiment, examples=digits), deferred(experiment, digits)
    before, train_step = {}, late.train_step

    def watched():
        before[late.step] = state(late)
        train_step()

    late.train_step = watched
    expected, outcome = waiting.fit(), late.fit()
    assert max(before) > 20
    assert (late.step, outcome.state, outcome.reason) == (20, "diverged", expected.reason)
    assert [result.images for result in outcome.results] == [500]
    torch.testing.assert_close(state(late), before[20], rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
def test_steps_nobody_waits_for_are_the_same_steps(tiny, digits, optimizer):
    experiment = tiny(optimizer={"name": optimizer}, coupling="independent", training={"num_images": 1_000})
    waiting, late = Trainer(experiment, examples=digits), deferred(experiment, digits)
    first, second = waiting.fit(), late.fit()
    assert second.state == "completed"
    torch.testing.assert_close(late.learner.network.state_dict(), waiting.learner.network.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(
        late.learner.average.state_dict(), waiting.learner.average.state_dict(), rtol=1e-6, atol=1e-6
    )
    for name in ("train/loss", "train/grad_norm", "cost/forward_units"):
        assert [one.metrics[name] for one in first.results] == [one.metrics[name] for one in second.results]


def test_an_optimizer_that_cannot_skip_is_waited_for_anywhere(tiny, monkeypatch):
    experiment = tiny(optimizer={"name": "radam", "lr": 1e-3})
    assert not Learner(experiment, torch.device("meta")).waits
    monkeypatch.setattr(RAdam, "build", lambda self, parameters: torch.optim.RAdam(parameters, lr=self.lr))
    assert Learner(experiment, CPU).waits
    elsewhere = torch.device("meta")
    assert Learner(experiment, elsewhere).waits
    assert not Learner(tiny(), elsewhere).waits


def test_batches_and_draws_read_nothing_from_the_device(digits, tiny):
    experiment = tiny()
    batches = Batches(digits, 32, 0)
    batches[0]
    with Reads() as reads:
        for step in range(1, 60):  # over the end of an epoch
            batches[step]
            draw_step(0, step, 32, experiment.data.draw_source)
    assert reads.names == []


@pytest.mark.gpu
@pytest.mark.parametrize("coupling", ["independent", "generator"])
def test_a_step_on_a_gpu_waits_for_nothing(tiny, digits, coupling):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    trainer = Trainer(tiny(coupling=coupling), examples=digits, device="cuda")
    trainer.train_step()  # sets up
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            trainer.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.settle()
