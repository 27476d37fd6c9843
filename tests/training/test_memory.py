"""Memory of evaluations beside that of steps: the most bytes of tensors that are alive at once."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gcsearch.metrics.evaluate import piece_size
from gcsearch.training import Trainer


class Memory(TorchDispatchMode):
    """Bytes of the tensors that are made inside, now and at most; views, and what was there before, count nothing."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.sizes = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.look((args, kwargs), counts=False)
        result = function(*args, **(kwargs or {}))
        self.look(result, counts=True)
        return result

    def look(self, tree, counts):
        for tensor in tree_leaves(tree):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = size = storage.nbytes() if counts else 0
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.forget, storage._cdata)

    def forget(self, key):
        self.now -= self.sizes.pop(key)


def most_bytes(function):
    with Memory() as memory:
        function()
    return memory.most


def test_memory_is_what_is_alive_at_once():
    before = torch.zeros(9000)

    def work():
        before.view(90, 100).add_(1)
        kept = torch.zeros(1000)
        for _ in range(5):
            kept = kept + torch.ones(1000)  # old, ones, and new
        view = kept[:10]
        del kept
        torch.zeros(2000)
        return view

    assert most_bytes(work) == 3 * 4000


def test_memory_of_an_evaluation_grows_with_the_samples_by_these_and_their_features_alone(tiny, digits):
    judge = Trainer(tiny(), examples=digits).judge
    function = tiny().function(tiny().new_network(0))
    size = piece_size(32)
    judge.draws.shard(function, 0, size)  # sets up
    few, many = (most_bytes(lambda num=num: judge.draws.shard(function, 0, num * size)) for num in (2, 8))
    assert many - few == 6 * size * (64 + 64 * 4)


@pytest.mark.parametrize("name", ["unet", "song_unet"])
def test_an_evaluation_needs_less_than_a_step(tiny, digits, name):
    experiment = tiny(network={"name": name, "channels": 32, "channel_mult": [1, 2], "num_blocks": 2})
    trainer = Trainer(experiment, examples=digits)
    trainer.train_step()  # sets up
    step = most_bytes(trainer.train_step)
    assert trainer.judge.draws.batch_size == piece_size(32) == 128
    assert most_bytes(lambda: trainer.judge.draws.shard(trainer.learner.models.ema, 0, 256)) < step


def test_pieces_are_four_batches_and_at_most_512():
    assert [piece_size(size) for size in (1, 50, 64, 128, 129, 4096)] == [4, 200, 256, 512, 512, 512]
