"""What generates end points in a training: an average of its own, or the frozen weights of another training."""

from __future__ import annotations

import copy

import pytest
import torch

from gcsearch.config import Experiment
from gcsearch.errors import CheckpointError
from gcsearch.science.ema import Constant, update_average
from gcsearch.science.preconditioning import ConsistencyFunction
from gcsearch.science.randomness import draw_step
from gcsearch.training import Trainer, load_checkpoint
from gcsearch.training.pretrained import load_frozen, weights_sha256
from gcsearch.training.step import Learner

CPU = torch.device("cpu")
OWN = {"name": "generator", "mu": 0.5, "predictor_ema": {"name": "constant", "half_life_images": 50}}


def state(module):
    return copy.deepcopy(module.state_dict())


def differ(first, second):
    return any((first[name] != second[name]).any() for name in first)


def metrics(results):
    """Everything in results but the clock."""
    return [
        {name: value for name, value in result.metrics.items() if not name.endswith(("seconds", "per_second"))}
        for result in results
    ]


def run_steps(learner, experiment, steps):
    size = experiment.training.batch_size
    losses = []
    for step in range(steps):
        data = torch.rand(size, 1, 8, 8, generator=torch.Generator().manual_seed(step)) * 2 - 1
        draws = draw_step(experiment.seed, step, size, experiment.data.draw_source)
        losses.append(learner.step(data, draws, step).loss.item())
    return losses


@pytest.fixture
def pretrained(tiny, digits, tmp_path):
    """Makes the checkpoint of a short training with another network and seed."""

    def make(folder="teacher", **sections):
        experiment = tiny(
            **{
                "seed": 7,
                "coupling": "independent",
                "network": {"width": 24},
                "training": {"num_images": 500, "batch_size": 32},
                **sections,
            }
        )
        examples = digits if experiment.data.name == "digits" else None
        Trainer(experiment, examples=examples, directory=tmp_path / folder).fit()
        return tmp_path / folder / "checkpoints" / "latest.pt"

    return make


def frozen(path):
    return {"name": "generator", "mu": 0.5, "predictor": "frozen", "checkpoint": str(path)}


# A second average -------------------------------------------------------------------------------------------------


def test_a_training_keeps_no_second_average_unless_asked(tiny, tmp_path, digits):
    trainer = Trainer(tiny(), examples=digits, directory=tmp_path)
    trainer.save()
    assert trainer.learner.predictor_average is None
    assert trainer.learner.models.predictors["ema"] is trainer.learner.models.ema
    checkpoint = load_checkpoint(tmp_path / "checkpoints" / "latest.pt")
    assert (checkpoint.predictor_average, checkpoint.frozen_sha256) == ({}, None)


def test_second_average_follows_its_own_rule_and_the_first_its_own(tiny):
    experiment = tiny(coupling=OWN)
    learner = Learner(experiment, CPU)
    first, second = copy.deepcopy(learner.average), copy.deepcopy(learner.average)
    for step in range(5):
        size = experiment.training.batch_size
        data = torch.rand(size, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        learner.step(data, draw_step(0, step, size, experiment.data.draw_source), step)
        update_average(first, learner.network, experiment.ema.decay(step + 1, size))
        update_average(second, learner.network, Constant(half_life_images=50.0).decay(step + 1, size))
    torch.testing.assert_close(learner.average.state_dict(), first.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(learner.predictor_average.state_dict(), second.state_dict(), rtol=0, atol=0)
    assert differ(learner.average.state_dict(), learner.predictor_average.state_dict())


def test_second_average_is_what_generates_and_the_first_what_is_evaluated(tiny):
    experiment = tiny(coupling=OWN)
    losses = {}
    for spoilt in ("nothing", "average", "predictor_average"):
        learner = Learner(experiment, CPU)
        assert learner.models.ema.network is learner.average
        assert learner.models.predictors["ema"].network is learner.predictor_average
        if spoilt != "nothing":
            with torch.no_grad():
                for weight in getattr(learner, spoilt).parameters():
                    weight.add_(0.1)
        losses[spoilt] = run_steps(learner, experiment, 1)
    assert losses["average"] == losses["nothing"]
    assert losses["predictor_average"] != losses["nothing"]


def test_second_average_with_the_rule_of_the_first_is_the_training_without_it_bit_for_bit(tiny, digits):
    rule = {"name": "power_warmup", "period": 1}
    one = Trainer(tiny(ema=rule), examples=digits)
    two = Trainer(tiny(ema=rule, coupling={"name": "generator", "predictor_ema": rule}), examples=digits)
    assert metrics(one.fit().results) == metrics(two.fit().results)
    torch.testing.assert_close(two.learner.predictor_average.state_dict(), state(one.learner.average), rtol=0, atol=0)
    torch.testing.assert_close(two.learner.network.state_dict(), state(one.learner.network), rtol=0, atol=0)


def test_second_average_changes_the_fingerprint(tiny):
    other = {**OWN, "predictor_ema": {"name": "constant", "half_life_images": 60}}
    experiments = [tiny(coupling={"name": "generator", "mu": 0.5}), tiny(coupling=OWN), tiny(coupling=other)]
    assert len({experiment.fingerprint for experiment in experiments}) == 3
    assert all(Experiment.from_dict(experiment.to_dict()) == experiment for experiment in experiments)


# A frozen predictor -----------------------------------------------------------------------------------------------


def test_frozen_predictor_has_the_averaged_weights_of_the_checkpoint_and_its_own_network(tiny, pretrained):
    path = pretrained()
    learner = Learner(tiny(coupling=frozen(path)), CPU)
    network = learner.models.frozen.network
    torch.testing.assert_close(network.state_dict(), load_checkpoint(path).average, rtol=0, atol=0)
    assert network.state_dict().keys() == learner.network.state_dict().keys()
    assert sum(p.numel() for p in network.parameters()) > sum(p.numel() for p in learner.network.parameters())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_frozen_predictor_is_used_and_never_moves(tiny, pretrained):
    path = pretrained()
    experiment = tiny(coupling=frozen(path))
    learner = Learner(experiment, CPU)
    network = learner.models.frozen.network
    before = state(network)
    losses = run_steps(learner, experiment, 8)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(
        name not in {id(p) for g in learner.optimizer.param_groups for p in g["params"]}
        for name in map(id, network.parameters())
    )

    spoilt = Learner(experiment, CPU)
    with torch.no_grad():
        for weight in spoilt.models.frozen.network.parameters():
            weight.add_(0.1)
    assert run_steps(spoilt, experiment, 1)[0] != losses[0]


def test_frozen_predictor_predicts_for_the_chosen_rows_without_dropout(tiny, pretrained, monkeypatch):
    path = pretrained(network={"width": 24, "dropout": 0.5})
    experiment = tiny(coupling=frozen(path))
    learner = Learner(experiment, CPU)
    asked, original = [], ConsistencyFunction.__call__

    def call(self, noisy, sigma, dropout_seed=None):
        if self is learner.models.frozen:
            asked.append((noisy.shape[0], dropout_seed, torch.is_grad_enabled()))
        return original(self, noisy, sigma, dropout_seed)

    monkeypatch.setattr(ConsistencyFunction, "__call__", call)
    run_steps(learner, experiment, 1)
    assert asked == [(16, None, False)]


def test_frozen_predictor_of_another_shape_is_refused(tiny, points, pretrained):
    path = pretrained()
    with pytest.raises(
        CheckpointError, match=r"latest\.pt: a frozen predictor must be .* shape \(2,\), got \(1, 8, 8\)"
    ):
        Learner(tiny(points, coupling=frozen(path)), CPU)


@pytest.mark.parametrize("process", [{"name": "ve", "sigma_data": 0.5}, {"name": "bridge", "sigma_data": 0.75}])
def test_frozen_predictor_of_another_process_is_refused(tiny, pretrained, process):
    path = pretrained(process=process)
    with pytest.raises(CheckpointError, match="a frozen predictor must have the process"):
        Learner(tiny(coupling=frozen(path)), CPU)


def test_frozen_predictor_that_is_missing_or_damaged_is_refused(tiny, tmp_path, pretrained):
    with pytest.raises(CheckpointError, match=r"nowhere\.pt: no such checkpoint"):
        Learner(tiny(coupling=frozen(tmp_path / "nowhere.pt")), CPU)
    checkpoint = load_checkpoint(pretrained())
    checkpoint.config["network"]["width"] = 12
    checkpoint.save(tmp_path / "narrow.pt")
    with pytest.raises(CheckpointError, match=r"narrow\.pt: the weights do not fit"):
        load_frozen(tiny(coupling=frozen(tmp_path / "narrow.pt")))
    checkpoint.config["network"] = {"name": "transformer_of_the_future"}
    checkpoint.save(tmp_path / "unknown.pt")
    with pytest.raises(CheckpointError, match=r"unknown\.pt: holds a recipe that this version .*transformer_of"):
        load_frozen(tiny(coupling=frozen(tmp_path / "unknown.pt")))


def test_training_does_not_go_on_with_another_predictor_under_the_same_path(tiny, digits, tmp_path, pretrained):
    path = pretrained()
    original = path.read_bytes()
    experiment = tiny(coupling=frozen(path))
    part = Trainer(
        experiment,
        examples=digits,
        directory=tmp_path / "run",
        checkpoint_seconds=-1.0,
        should_stop=lambda: part.step > 4,
    )
    assert part.fit().state == "stopped"

    other = pretrained("another", seed=8)
    path.write_bytes(other.read_bytes())
    assert tiny(coupling=frozen(path)).fingerprint == experiment.fingerprint
    with pytest.raises(CheckpointError, match="the frozen predictor must be the one this training began with"):
        Trainer(experiment, examples=digits, directory=tmp_path / "run").fit()

    path.write_bytes(original)
    assert Trainer(experiment, examples=digits, directory=tmp_path / "run").fit().state == "completed"


def test_digest_of_weights_tells_values_names_and_shapes_apart():
    linear = torch.nn.Linear(3, 2)
    assert weights_sha256(linear) == weights_sha256(copy.deepcopy(linear))
    moved = copy.deepcopy(linear)
    with torch.no_grad():
        moved.bias[0] = torch.nextafter(moved.bias[0], torch.tensor(9.0))
    reshaped = torch.nn.Linear(2, 3)
    named = torch.nn.Sequential(linear)
    half = copy.deepcopy(linear).bfloat16()
    assert len({weights_sha256(module) for module in (linear, moved, reshaped, named, half)}) == 5


# Resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["own average", "own average over ot", "frozen", "ot", "power function, clamp"])
@pytest.mark.parametrize("cut", [5, 16])
def test_a_training_cut_at_any_step_goes_on_as_if_it_had_not_been(tiny, digits, tmp_path, pretrained, kind, cut):
    sections = {
        "own average": lambda: {"coupling": OWN},
        "own average over ot": lambda: {"coupling": {**OWN, "base": "ot"}, "network": {"dropout": 0.2}},
        "frozen": lambda: {"coupling": frozen(pretrained())},
        "ot": lambda: {"coupling": "ot", "timesteps": "square_root"},
        "power function, clamp": lambda: {"ema": "power_function", "coupling": {"name": "generator", "clamp": True}},
    }[kind]()
    experiment = tiny(training={"num_images": 1_000}, **sections)
    whole = Trainer(experiment, examples=digits)
    expected = whole.fit()
    cut_off = Trainer(
        experiment,
        examples=digits,
        directory=tmp_path / "run",
        checkpoint_seconds=-1.0,
        should_stop=lambda: cut_off.step >= cut,
    )
    assert cut_off.fit().state == "stopped"
    resumed = Trainer(experiment, examples=digits, directory=tmp_path / "run")
    outcome = resumed.fit()
    assert outcome.state == expected.state == "completed"
    assert metrics(outcome.results) == metrics(expected.results)
    for name in ("network", "average", "predictor_average"):
        first, second = getattr(resumed.learner, name), getattr(whole.learner, name)
        assert (first is None) == (second is None)
        if first is not None:
            torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    assert (resumed.learner.predictor_average is not None) == kind.startswith("own")
