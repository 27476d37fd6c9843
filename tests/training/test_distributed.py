"""Several processes that train as one: what a share is, and that shares together are the batch."""

import dataclasses

import pytest
import torch
import torch.distributed as dist

from gcsearch.config import Experiment
from gcsearch.errors import ConfigError
from gcsearch.science.couplings import OptimalTransport, optimal_permutation
from gcsearch.science.randomness import Share, draw_step
from gcsearch.training.distributed import Group, TorchGroup, check_same_weights, share_of
from gcsearch.training.judge import Judge
from gcsearch.training.step import Learner

CPU = torch.device("cpu")


def group_of(rank, size):
    group = Group()
    group.rank, group.size = rank, size
    return group


def batch_of(experiment, digits, step=0):
    training = experiment.training
    draws = draw_step(experiment.seed, step, training.batch_size, experiment.data.draw_source, CPU)
    return digits.scaled()[torch.arange(training.batch_size)], draws


def test_a_process_alone_does_everything_itself():
    group, tensor = Group(), torch.ones(3)
    group.add([tensor])
    assert tensor.tolist() == [1, 1, 1]
    assert group.agree(True, False) == (True, False)
    assert group.from_first(lambda: 7) == 7
    assert group.gather(7) == [7]
    assert (group.rank, group.size, group.is_first, group.share) == (0, 1, True, Share())
    check_same_weights(group, torch.nn.Linear(2, 2))


def test_a_process_alone_keeps_its_batch_as_drawn(tiny, digits):
    data, draws = batch_of(tiny(), digits)
    own, own_draws = share_of(Group(), tiny().coupling, data, draws)
    assert own is data
    assert own_draws is draws


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("num", [0, 1, 7, 8, 64])
def test_shares_of_what_a_coupling_takes_are_even_and_add_up(count, num):
    parts = [Share(index=index, count=count).of(num) for index in range(count)]
    assert sum(parts) == num
    assert max(parts) - min(parts) <= 1


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"index must be in \[0, 2\), got 2"):
        Share(index=2, count=2)


@pytest.mark.parametrize("size", [2, 4])
def test_shares_together_are_the_batch(tiny, digits, size):
    experiment = tiny()
    data, draws = batch_of(experiment, digits)
    parts = [share_of(group_of(rank, size), experiment.coupling, data, draws) for rank in range(size)]
    rows = torch.cat([draws.selection[rank::size] for rank in range(size)])
    assert sorted(rows.tolist()) == list(range(32))
    for whole, part in (
        (data, [own for own, _ in parts]),
        (draws.noise, [own.noise for _, own in parts]),
        (draws.level_uniforms, [own.level_uniforms for _, own in parts]),
    ):
        torch.testing.assert_close(torch.cat(part), whole[rows], rtol=0, atol=0)
    for rank, (own, own_draws) in enumerate(parts):
        assert own.shape[0] == 32 // size
        assert own_draws.share == Share(index=rank, count=size)
        assert own_draws.selection.tolist() == list(range(32 // size))


RECIPES = {
    "independent": {"coupling": "independent"},
    "generator": {"coupling": {"name": "generator", "mu": 0.3}},
    "generator-all": {"coupling": {"name": "generator", "mu": 1.0}, "network": {"dropout": 0.3}},
    "ot": {"coupling": "ot"},
    "generator-over-ot": {"coupling": {"name": "generator", "mu": 0.5, "base": "ot"}},
    "dropout": {"coupling": "independent", "network": {"dropout": 0.3}},
    "unet-dropout": {"network": {"name": "unet", "channels": 8, "num_blocks": 1, "dropout": 0.3}},
    "denoising": {"objective": "denoising", "coupling": {"name": "generator", "mu": 0.3}},
}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("sections", RECIPES.values(), ids=RECIPES)
def test_losses_and_costs_of_the_shares_add_up_to_those_of_the_batch(tiny, digits, sections, size):
    experiment = tiny(**sections)
    data, draws = batch_of(experiment, digits)
    learner = Learner(experiment, CPU)

    def terms(group):
        own, own_draws = share_of(group, experiment.coupling, data, draws)
        return experiment.objective(learner.recipe, learner.models, own, own_draws, 3, 100)

    def gradient(loss):
        return torch.autograd.grad(loss, list(learner.network.parameters()))

    whole, parts = terms(Group()), [terms(group_of(rank, size)) for rank in range(size)]
    torch.testing.assert_close(sum(part.loss for part in parts) / size, whole.loss, rtol=1e-5, atol=1e-7)
    expected = gradient(whole.loss)
    torch.testing.assert_close(gradient(sum(part.loss for part in parts) / size), expected, rtol=1e-4, atol=1e-6)
    assert sum(part.forward_units for part in parts) == whole.forward_units
    costs = [part.forward_units for part in parts]
    assert max(costs) - min(costs) <= 1


def test_noises_are_exchanged_over_the_whole_batch_before_it_is_shared(tiny, digits):
    experiment = tiny(coupling="ot")
    data, draws = batch_of(experiment, digits)
    pairs = draws.noise[optimal_permutation(data, draws.noise)]
    own, own_draws = share_of(group_of(1, 2), experiment.coupling, data, draws)
    rows = draws.selection[1::2]
    torch.testing.assert_close(own_draws.noise, pairs[rows], rtol=0, atol=0)
    assert (own_draws.noise != draws.noise[rows]).any()
    # The coupling arranges its share once more, and leaves it as it is.
    torch.testing.assert_close(OptimalTransport().arrange(own, own_draws.noise), own_draws.noise, rtol=0, atol=0)


def test_weights_that_have_drifted_apart_are_found():
    first, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    other.load_state_dict(first.state_dict())

    class Second(Group):
        rank, size = 1, 2

        def from_first(self, compute):
            del compute
            return [value.double().sum().item() for value in first.state_dict().values()]

    check_same_weights(Second(), other)
    with torch.no_grad():
        other.weight[1, 2] = torch.nextafter(other.weight[1, 2], torch.tensor(9.0))
    with pytest.raises(RuntimeError, match="process 1 of 2: the weights differ"):
        check_same_weights(Second(), other)


def test_processes_agree_without_asking_their_devices(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        group = TorchGroup("meta")  # a device that nothing can be read from
        assert group.agree(True, False, True) == (True, False, True)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("size", [2, 3, 5])
def test_shares_of_an_evaluation_together_are_the_evaluation_to_the_last_bit(tiny, digits, size):
    evaluation = {"num_samples": 1_200, "metrics": ["fid", "kid"], "further_samplers": ["multistep"]}
    experiment = tiny(evaluation=evaluation, training={"batch_size": 128})  # three pieces
    models, values = Learner(experiment, CPU).models, []

    class Member(Group):
        """One of several processes, which speak one after the other: the first one last."""

        def __init__(self, rank):
            self.rank, self.size = rank, size

        def gather(self, value):
            values.insert(0, value)
            return values if self.is_first else []

        def from_first(self, compute):
            return compute() if self.is_first else None

    *_, judgement = [Judge(experiment, digits, CPU, Member(rank))(models, 0) for rank in reversed(range(size))]
    assert judgement == Judge(experiment, digits, CPU)(models, 0)
    assert [value[0] is not None for value in values] == [rank < 3 for rank in range(size)]
    assert sum(len(value[0].samples) for value in values if value[0] is not None) == 1_200


# Configuration ----------------------------------------------------------------------------------------------------


def test_the_batch_must_be_divisible_by_the_number_of_workers(tiny):
    with pytest.raises(ConfigError, match=r"training.batch_size must be a multiple of num_workers = 3, got 32"):
        tiny(training={"num_workers": 3})
    with pytest.raises(ConfigError, match=r"training.num_workers must be at least 1, got 0"):
        tiny(training={"num_workers": 0})
    assert tiny(training={"num_workers": 32}).training.num_workers == 32


def test_the_number_of_workers_is_no_part_of_the_recipe(tiny):
    one, two = tiny(), tiny(training={"num_workers": 2})
    assert one.fingerprint == two.fingerprint
    assert one.recipe_fingerprint == two.recipe_fingerprint
    assert Experiment.from_dict(two.to_dict()) == two
    assert dataclasses.replace(two, training=one.training) == one
