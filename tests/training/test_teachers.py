"""Teachers in a training: where their weights come from, what is done with them, and what is refused."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import save_file

from gcsearch.config import Experiment
from gcsearch.errors import CheckpointError
from gcsearch.export.model import load_model
from gcsearch.science.couplings import Generator
from gcsearch.science.randomness import draw_step
from gcsearch.science.samplers import Gamma
from gcsearch.training import Trainer, load_checkpoint
from gcsearch.training.pretrained import weights_sha256
from gcsearch.training.step import Learner

CPU = torch.device("cpu")


def run_steps(learner, experiment, steps):
    size = experiment.training.batch_size
    for step in range(steps):
        data = torch.rand(size, 1, 8, 8, generator=torch.Generator().manual_seed(step)) * 2 - 1
        learner.step(data, draw_step(experiment.seed, step, size, experiment.data.draw_source), step)


def distilled(path, **fields):
    return {"name": "consistency_distillation", "teacher": {"name": "checkpoint", "path": str(path)}, **fields}


@pytest.fixture
def denoiser(tiny, digits, tmp_path):
    """Makes the checkpoint of a short training of a denoiser."""

    def make(folder="teacher", **sections):
        defaults = {"seed": 7, "coupling": "independent", "objective": "denoising", "training": {"num_images": 500}}
        Trainer(tiny(**{**defaults, **sections}), examples=digits, directory=tmp_path / folder).fit()
        return tmp_path / folder / "checkpoints" / "latest.pt"

    return make


def test_teacher_has_the_averaged_weights_and_the_student_starts_with_them(tiny, denoiser):
    path = denoiser()
    weights = load_checkpoint(path).average
    experiment = tiny(objective=distilled(path))
    learner = Learner(experiment, CPU)
    for network in (learner.models.teacher.network, learner.network, learner.average):
        torch.testing.assert_close(network.state_dict(), weights, rtol=0, atol=0)
    run_steps(learner, experiment, 4)
    teacher = learner.models.teacher.network
    torch.testing.assert_close(teacher.state_dict(), weights, rtol=0, atol=0)
    assert not any(weight.requires_grad or weight.grad is not None for weight in teacher.parameters())
    assert weights_sha256(learner.network) != learner.teacher_sha256 == weights_sha256(teacher)


def test_student_may_start_afresh_with_a_network_of_its_own(tiny, denoiser):
    path = denoiser(network={"width": 24})
    afresh = Learner(tiny(objective=distilled(path, start="random")), CPU)
    torch.testing.assert_close(afresh.network.state_dict(), Learner(tiny(), CPU).network.state_dict(), rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"objective\.teacher: must have the network of the experiment"):
        Learner(tiny(objective=distilled(path)), CPU)


@pytest.mark.parametrize("form", ["folder", "file"])
def test_teacher_and_frozen_predictor_may_be_exports(tiny, denoiser, tmp_path, form):
    checkpoint, folder = load_checkpoint(denoiser()), tmp_path / "export"
    folder.mkdir()
    config = json.dumps(checkpoint.config)
    save_file(checkpoint.average, folder / "model.safetensors", metadata={"config": config})
    path = folder if form == "folder" else folder / "model.safetensors"
    coupling = Generator(predictor="frozen", checkpoint=str(path))
    experiment = tiny(objective=distilled(path), coupling={"name": "generator", "predictor": "frozen",
                                                           "checkpoint": str(path)})  # fmt: skip
    assert experiment.coupling == coupling
    assert experiment.files()[str(path)] == folder / "model.safetensors"
    models = Learner(experiment, CPU).models
    for function in (models.teacher, models.frozen):
        torch.testing.assert_close(function.network.state_dict(), checkpoint.average, rtol=0, atol=0)


def test_what_is_no_denoiser_of_the_experiment_is_refused(tiny, denoiser, tmp_path):
    cases = {
        "consistency": ({"objective": "consistency"}, "must be trained with the objective 'denoising', got 'consiste"),
        "process": ({"process": {"name": "ve", "sigma_data": 0.5}}, "a teacher must have the process"),
    }
    for folder, (sections, message) in cases.items():
        path = denoiser(folder, **sections)
        with pytest.raises(CheckpointError, match=message):
            Learner(tiny(objective=distilled(path)), CPU)
    with pytest.raises(CheckpointError, match=r"nowhere\.pt: no such checkpoint"):
        Learner(tiny(objective=distilled(tmp_path / "nowhere.pt")), CPU)
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"broken\.safetensors: is not the weights file of an export"):
        Learner(tiny(objective=distilled(tmp_path / "broken.safetensors")), CPU)


def test_training_does_not_go_on_with_another_teacher_under_the_same_path(tiny, digits, tmp_path, denoiser):
    path, other = denoiser(), denoiser("other", seed=8)
    experiment = tiny(objective=distilled(path), training={"num_images": 1_000})
    part = Trainer(experiment, examples=digits, directory=tmp_path / "run", checkpoint_seconds=-1.0,
                   should_stop=lambda: part.step > 4)  # fmt: skip
    assert part.fit().state == "stopped"
    path.write_bytes(other.read_bytes())
    with pytest.raises(CheckpointError, match="the teacher must be the one this training began with"):
        Trainer(experiment, examples=digits, directory=tmp_path / "run").fit()


@pytest.mark.parametrize("cut", [16])
def test_a_training_with_a_target_average_goes_on_as_if_it_had_not_been_cut(tiny, digits, tmp_path, denoiser, cut):
    objective = distilled(denoiser(), target_ema=0.9)
    experiment = tiny(objective=objective, training={"num_images": 1_000})
    whole = Trainer(experiment, examples=digits)
    before = copy.deepcopy(whole.learner.target.state_dict())
    whole.fit()
    cut_off = Trainer(experiment, examples=digits, directory=tmp_path / "run", checkpoint_seconds=-1.0,
                      should_stop=lambda: cut_off.step >= cut)  # fmt: skip
    assert cut_off.fit().state == "stopped"
    resumed = Trainer(experiment, examples=digits, directory=tmp_path / "run")
    assert resumed.fit().state == "completed"
    for name in ("network", "average", "target"):
        states = [getattr(trainer.learner, name).state_dict() for trainer in (resumed, whole)]
        torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert any((before[name] != value).any() for name, value in whole.learner.target.state_dict().items())


def test_target_average_follows_the_rule_of_the_objective(tiny, denoiser):
    experiment = tiny(objective=distilled(denoiser(), target_ema=0.75))
    learner = Learner(experiment, CPU)
    expected = copy.deepcopy(learner.target.state_dict())
    for step in range(3):
        size = experiment.training.batch_size
        data = torch.rand(size, 1, 8, 8, generator=torch.Generator().manual_seed(step)) * 2 - 1
        learner.step(data, draw_step(0, step, size, experiment.data.draw_source), step)
        weights = learner.network.state_dict()
        expected = {name: value + 0.25 * (weights[name] - value) for name, value in expected.items()}
    torch.testing.assert_close(learner.target.state_dict(), expected, rtol=1e-5, atol=1e-7)


def test_objective_goes_out_and_comes_back_with_its_teacher(tiny):
    experiment = tiny(objective=distilled("some.pt"))
    assert Experiment.from_dict(experiment.to_dict()) == experiment
    assert experiment.fingerprint != tiny(objective=distilled("other.pt")).fingerprint


@pytest.fixture
def trajectory(tiny, denoiser):
    """A training with the objective ctm, whose network is told two levels and starts with a teacher's weights."""
    teacher = {"name": "checkpoint", "path": str(denoiser())}
    objective = {"name": "ctm", "num_levels": 5, "solver_steps": 2, "target_ema": 0.9, "teacher": teacher}
    return tiny(coupling="independent", objective=objective, training={"num_images": 1_000})


def test_student_of_two_levels_starts_with_the_weights_of_a_teacher_of_one(trajectory, denoiser):
    teacher, learner = load_checkpoint(denoiser()).average, Learner(trajectory, CPU)
    weights = learner.network.state_dict()
    assert teacher.keys() < weights.keys()
    torch.testing.assert_close({name: weights[name] for name in teacher}, teacher, rtol=0, atol=0)


def test_a_training_over_trajectories_goes_on_as_if_it_had_not_been_cut_and_its_checkpoint_draws_what_it_drew(
    trajectory, digits, tmp_path
):
    whole = Trainer(trajectory, examples=digits)
    expected = whole.fit()
    cut_off = Trainer(trajectory, examples=digits, directory=tmp_path / "run", should_stop=lambda: cut_off.step >= 20)
    cut_off.checkpoint_seconds = -1.0
    assert cut_off.fit().state == "stopped"
    resumed = Trainer(trajectory, examples=digits, directory=tmp_path / "run")
    outcome = resumed.fit()
    for name in ("network", "average", "target"):
        ours, theirs = (getattr(trainer.learner, name).state_dict() for trainer in (resumed, whole))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert outcome.results[-1].metrics["eval/fid"] == expected.results[-1].metrics["eval/fid"]

    model = load_model(tmp_path / "run" / "checkpoints" / "latest.pt")
    noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = torch.full((3,), 80.0)
    with torch.no_grad():
        torch.testing.assert_close(model.function(80 * noise, sigma), whole.learner.models.ema(80 * noise, sigma))
    assert model.draw(4, seed=0, sampler=Gamma(levels=(1.0,), gamma=0.5)).shape == (4, 1, 8, 8)
    assert model.sample(4, steps=2).shape == (4, 1, 8, 8)
