"""Checkpoints of EDM's code as teachers: the same denoiser comes out, and nothing in the file is run."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch

from gcsearch.errors import CheckpointError
from gcsearch.science.networks.base import seeded
from gcsearch.training import Trainer
from gcsearch.training.edm_import import load_edm
from gcsearch.training.pretrained import load_teacher

from .edm_modules import EDMPrecond, GroupNorm, Linear, Persistent, checkpoint, importable

SMALL = {
    "img_resolution": 8,
    "in_channels": 1,
    "out_channels": 1,
    "augment_dim": 9,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [16, 8],
    "dropout": 0.13,
}
NCSN = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
    "channel_mult_noise": 2,
    "channel_mult": [1, 2, 2],
}
OURS = {"name": "song_unet", "channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]}


def network(**changes):
    precond = {name: changes.pop(name) for name in ("sigma_data", "label_dim") if name in changes}
    with seeded(0):
        return EDMPrecond(**{**SMALL, **changes}, **precond).requires_grad_(False)


@pytest.fixture
def experiment(tiny):
    """Makes an experiment with such a teacher."""

    def make(path, **sections):
        objective = {"name": "consistency_distillation", "teacher": {"name": "edm", "path": str(path)}}
        return tiny(**{"objective": objective, "network": OURS, "coupling": "independent", **sections})

    return make


@pytest.mark.parametrize("changes", [{}, NCSN], ids=["ddpm++", "ncsn++"])
def test_teacher_says_what_the_network_of_the_file_says(experiment, tmp_path, changes):
    theirs = network(sigma_data=0.75, **changes)
    path = checkpoint(tmp_path / "edm.pkl", theirs)
    used_in = experiment(path)
    found = load_teacher(used_in)
    assert not any(weight.requires_grad for weight in found.network.parameters())
    function = found.function(found.network, used_in)
    rng = torch.Generator().manual_seed(1)
    sigma = torch.tensor([0.002, 0.3, 1.7, 80.0])
    x = torch.randn(4, 1, 8, 8, generator=rng) * (1 + sigma[:, None, None, None])
    with torch.no_grad():
        expected, got = theirs(x, sigma), function(x, sigma)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    # At the smallest level, a consistency function is the identity; this is a denoiser.
    assert (got[0] - x[0]).abs().max() > 1e-5
    assert (got[3] - 0.75**2 / (80**2 + 0.75**2) * x[3]).abs().max() > 1e-2


def test_student_starts_with_its_weights_and_trains(experiment, digits, tmp_path):
    path = checkpoint(tmp_path / "edm.pkl", network(sigma_data=0.75))
    settings = {"training": {"num_images": 64}, "evaluation": {"every_images": 64, "num_samples": 16}}
    trainer = Trainer(experiment(path, **settings), examples=digits)
    start = {name: value.clone() for name, value in trainer.learner.network.state_dict().items()}
    torch.testing.assert_close(start, load_edm(path).module.state_dict(), rtol=0, atol=0)
    assert trainer.fit().state == "completed"
    teacher = trainer.learner.models.teacher.network.state_dict()
    torch.testing.assert_close(teacher, start, rtol=0, atol=0)
    assert any((start[name] != value).any() for name, value in trainer.learner.network.state_dict().items())
    assert trainer.experiment.files() == {str(path): path}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma_data": 0.5}, "must have the process 've' with sigma_data = 0.5, got"),
        ({"label_dim": 10}, "without class labels, but: it has class labels"),
        ({"img_resolution": 16}, r"must be trained on examples of shape \(1, 8, 8\), got \(1, 16, 16\)"),
    ],
)
def test_a_network_for_something_else_is_refused(experiment, tmp_path, changes, message):
    path = checkpoint(tmp_path / "edm.pkl", network(**{"sigma_data": 0.75, **changes}))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_teacher(experiment(path))
    assert str(caught.value).startswith(f"{path}: ")


def test_a_teacher_of_edm_needs_its_process(experiment, tmp_path):
    path = checkpoint(tmp_path / "edm.pkl", network())
    with pytest.raises(CheckpointError, match="must have the process 've' with sigma_data"):
        load_teacher(experiment(path, process={"name": "bridge", "sigma_data": 0.5}))


def broken(name):
    """A network that is not what its settings say."""
    module = network()
    model = module.model
    if name == "shape":
        model.map_layer1 = Linear(16, 16)
    elif name == "missing":
        del model.dec["8x8_aux_norm"]
    elif name == "unknown weight":
        model.enc["8x8_block7"] = GroupNorm(8)
    elif name == "settings":
        model._init_kwargs = {**model._init_kwargs, "model_channels": 4_000_000}
    elif name == "blocks":
        model._init_kwargs = {**model._init_kwargs, "num_blocks": 10**9}
    elif name == "argument":
        model._init_kwargs = {**model._init_kwargs, "surprise": 1}
    elif name == "type":
        model._init_kwargs = {**model._init_kwargs, "channel_mult": "many"}
    elif name == "decoder":
        model._init_kwargs = {**model._init_kwargs, "decoder_type": "skip"}
    elif name == "twice":
        model.enc["8x8_block0"].again = model.enc["8x8_block0"].conv0
    elif name == "no settings":
        del model._init_kwargs
    return module


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shape", "map_layer1.weight must have the shape"),
        ("missing", "of its weights are missing, one of them norm"),
        ("unknown weight", "unknown weight enc.8x8_block7.weight"),
        ("settings", "its weights do not fit its settings"),
        ("blocks", "its weights do not fit its settings"),
        ("argument", "unknown arguments surprise"),
        ("type", "but: "),
        ("decoder", "decoder_type='skip'"),
        ("twice", "a module of it occurs more than once"),
        ("no settings", "but: '_init_kwargs'"),
    ],
)
def test_weights_and_settings_that_do_not_fit_are_one_line(tmp_path, name, message):
    path = checkpoint(tmp_path / "edm.pkl", broken(name))
    with pytest.raises(CheckpointError) as caught:
        load_edm(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


class VPPrecond(Persistent):
    """Another network."""


class Command:
    """Runs a command when it is unpickled by anybody careless."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Beyond:
    """A tensor of a few bytes that claims to be larger."""

    def __init__(self, size, stride):
        self.size, self.stride = size, stride

    def __reduce__(self):
        storage = torch.storage.TypedStorage(
            wrap_storage=torch.zeros(3).untyped_storage(), dtype=torch.float32, _internal=True
        )
        return torch._utils._rebuild_tensor_v2, (storage, 0, self.size, self.stride, False, {})


class Storage:
    """Weights that are themselves a pickle."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return torch.storage._load_from_bytes, (pickle.dumps(Command(self.marker), 2),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda marker: {"ema": Command(marker)}, r"asks for (posix|os)\.system"),
        (lambda marker: {"ema": network(), "more": Command(marker)}, r"asks for (posix|os)\.system"),
        (lambda marker: {"ema": Storage(marker)}, "must be a readable pickle, but"),
        (lambda marker: {"ema": torch.nn.Linear(1, 1)}, r"asks for torch\.nn\.modules\.linear\.Linear"),
        (lambda marker: {"ema": Beyond((4,), (1,))}, r"a tensor of shape \(4,\) is not within its data, 3 numbers"),
        (lambda marker: {"ema": Beyond((10**12,), (0,))}, "is not within its data, 3 numbers"),
        (lambda marker: {"ema": Beyond((2,), (-1,))}, "is not within its data, 3 numbers"),
        (lambda marker: {"ema": np.zeros(3)}, "must hold a network under 'ema'"),
        (lambda marker: [network()], "must hold a network under 'ema'"),
        (lambda marker: {"ema": VPPrecond()}, "it has VPPrecond"),
        (lambda marker: {"ema": Linear(2, 2)}, "it has Linear"),
    ],
)
def test_a_file_of_anything_else_is_refused_and_nothing_runs(tmp_path, content, message):
    path, marker = tmp_path / "edm.pkl", tmp_path / "ran"
    with importable():
        path.write_bytes(pickle.dumps(content(marker)))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_edm(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_the_files_of_these_tests_are_dangerous(tmp_path):
    path, marker = checkpoint(tmp_path / "edm.pkl", network()), tmp_path / "ran"
    with importable(), pytest.raises(RuntimeError, match="the source code of a checkpoint was run"):
        pickle.loads(path.read_bytes())
    pickle.loads(pickle.dumps(Command(marker)))
    assert marker.exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x04."], ids=["empty", "text", "cut"])
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / "edm.pkl").write_bytes(content)
    with pytest.raises(CheckpointError, match="must be a readable pickle"):
        load_edm(tmp_path / "edm.pkl")
    with pytest.raises(CheckpointError, match=r"nowhere\.pkl: must be readable, got: No such file"):
        load_edm(tmp_path / "nowhere.pkl")
