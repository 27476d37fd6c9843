"""N + M steps are N steps, save, load, M steps: to the last bit, whatever the recipe and wherever it was cut."""

import functools

import pytest
import torch

from gcsearch.errors import CheckpointError
from gcsearch.training import Trainer, load_checkpoint

POINTS = "points"
RECIPES = {
    "independent-lion": {"coupling": "independent"},
    "generator-ema-adam-dropout": {"optimizer": {"name": "adam", "lr": 1e-3}, "network": {"dropout": 0.2}},
    "generator-online-radam-exponential": {
        "coupling": {"mu": 0.2, "mu_end": 0.9, "predictor": "online", "start": 0.1, "end": 0.8},
        "optimizer": {"name": "radam", "lr": 1e-3},
        "timesteps": {"name": "exponential", "s0": 4, "s1": 32},
    },
    "bridge-adamw-constant-multistep": {
        "process": {"name": "bridge", "sigma_data": 0.75},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "ema": {"name": "constant", "half_life_images": 300},
        "evaluation": {"sampler": "multistep", "metrics": ["kid", "fid"]},
    },
    "bf16": {"training": {"precision": "bf16"}},
    "unet-dropout": {
        "network": {"name": "unet", "channels": 8, "num_blocks": 1, "dropout": 0.2},
    },
    "scm-weight-of-levels": {"process": {"name": "trig"}, "objective": "scm", "network": {"dropout": 0.2}},
    "facm-two-conditions": {"process": {"name": "linear"}, "objective": {"name": "facm", "condition": "auxiliary"}},
    "batch-that-does-not-divide": {"training": {"batch_size": 37}},
    "points": {},
    "points-weight-decay": {"optimizer": {"name": "lion", "lr": 1e-2, "weight_decay": 0.1}, "distance": "l2"},
}


@pytest.fixture
def recipe(request, tiny, points):
    name = request.param
    sections = RECIPES[name]
    sections = sections | {"training": {**sections.get("training", {}), "num_images": 1_000}}
    return tiny(points, **sections) if name.startswith(POINTS) else tiny(**sections)


@pytest.fixture(scope="module")
def uninterrupted():
    """Trainer and outcome of a training without an interruption; each is run once."""

    @functools.cache
    def run(experiment):
        trainer = Trainer(experiment)
        return trainer, trainer.fit()

    return run


def metrics(results):
    """Everything in results but the clock."""
    return [
        (
            result.images,
            result.identities,
            {name: value for name, value in result.metrics.items() if not name.endswith(("seconds", "per_second"))},
        )
        for result in results
    ]


def assert_same_state(first, second):
    assert first.step == second.step
    a, b = first.learner, second.learner
    torch.testing.assert_close(a.network.state_dict(), b.network.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(a.average.state_dict(), b.average.state_dict(), rtol=0, atol=0)
    assert a.optimizer.state_dict()["param_groups"] == b.optimizer.state_dict()["param_groups"]
    states = a.optimizer.state_dict()["state"], b.optimizer.state_dict()["state"]
    assert states[0].keys() == states[1].keys()
    assert len(states[0]) > 0
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert (a.companion is None) == (b.companion is None)
    if a.companion is not None:
        torch.testing.assert_close(a.companion.state_dict(), b.companion.state_dict(), rtol=0, atol=0)
        assert any(weight.any() for weight in a.companion.parameters())
        states = a.companion_optimizer.state_dict()["state"], b.companion_optimizer.state_dict()["state"]
        torch.testing.assert_close(*states, rtol=0, atol=0)
    for name in ("forward_units", "loss_sum", "grad_norm_sum", "window_steps"):
        assert first.counters[name] == second.counters[name]


CUTS = [(recipe, 21) for recipe in RECIPES] + [
    (recipe, cut) for recipe in ("generator-online-radam-exponential", "points") for cut in (1, 16, 27)
]


@pytest.mark.parametrize(("recipe", "cut"), CUTS, indirect=["recipe"])
def test_a_training_cut_at_any_step_goes_on_as_if_it_had_not_been(recipe, cut, tmp_path, uninterrupted):
    examples = recipe.data.load()
    whole, expected = uninterrupted(recipe)
    assert expected.state == "completed"

    cut_off = Trainer(
        recipe,
        examples=examples,
        directory=tmp_path,
        checkpoint_seconds=-1.0,
        should_stop=lambda: cut_off.step >= cut,
    )
    assert cut_off.fit().state == "stopped"
    assert load_checkpoint(tmp_path / "checkpoints" / "latest.pt").step == cut

    reported = []
    resumed = Trainer(recipe, examples=examples, directory=tmp_path, report=reported.append)
    outcome = resumed.fit()
    assert outcome.state == "completed"
    assert_same_state(resumed, whole)
    assert metrics(outcome.results) == metrics(expected.results)
    assert metrics(reported) == metrics(expected.results)
    torch.testing.assert_close(
        load_checkpoint(tmp_path / "checkpoints" / "latest.pt").average,
        whole.learner.average.state_dict(),
        rtol=0,
        atol=0,
    )


def test_a_training_cut_after_every_few_steps_is_the_same_too(tiny, digits, tmp_path):
    experiment = tiny(training={"num_images": 1_000}, network={"dropout": 0.2}, optimizer={"name": "adam", "lr": 1e-3})
    whole = Trainer(experiment, examples=digits)
    expected = whole.fit()
    for _ in range(100):
        part = Trainer(experiment, examples=digits, directory=tmp_path, checkpoint_seconds=-1.0)
        part.should_stop = lambda part=part, start=[]: (start or start.append(part.step)) and part.step >= start[0] + 3
        outcome = part.fit()
        if outcome.state == "completed":
            break
    assert_same_state(part, whole)
    assert metrics(outcome.results) == metrics(expected.results)


def test_a_checkpoint_changes_nothing_in_the_training_that_writes_it(tiny, digits, tmp_path, uninterrupted):
    plain, expected = uninterrupted(tiny())
    saving = Trainer(tiny(), examples=digits, directory=tmp_path, checkpoint_seconds=-1.0)
    assert metrics(saving.fit().results) == metrics(expected.results)
    assert_same_state(saving, plain)


def test_a_completed_training_is_not_trained_again(tiny, digits, tmp_path):
    first = Trainer(tiny(), examples=digits, directory=tmp_path)
    expected = first.fit()
    content = (tmp_path / "checkpoints" / "latest.pt").read_bytes()
    again = Trainer(tiny(), examples=digits, directory=tmp_path, reported_images=2_000, report=pytest.fail)
    again.train_step = pytest.fail
    outcome = again.fit()
    assert (outcome.state, outcome.results) == ("completed", expected.results)
    assert (tmp_path / "checkpoints" / "latest.pt").read_bytes() == content


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("killed_at", "known"), [(500, 0), (1_000, 0), (1_000, 500), (2_000, 500), (2_000, 2_000)])
def test_a_result_whose_report_was_lost_is_reported_again_and_no_other(
    tiny, digits, tmp_path, killed_at, known, uninterrupted
):
    def report(result):
        if result.images == killed_at:
            raise Killed

    with pytest.raises(Killed):
        Trainer(tiny(), examples=digits, directory=tmp_path, report=report).fit()
    reported = []
    resumed = Trainer(tiny(), examples=digits, directory=tmp_path, report=reported.append, reported_images=known)
    resumed.fit()
    whole, outcome = uninterrupted(tiny())
    assert metrics(reported) == [entry for entry in metrics(outcome.results) if entry[0] > known]
    assert_same_state(resumed, whole)


def test_a_training_killed_before_its_first_checkpoint_starts_again(tiny, digits, tmp_path, uninterrupted):
    def kill():
        raise Killed

    with pytest.raises(Killed):
        Trainer(tiny(), examples=digits, directory=tmp_path, should_stop=kill).fit()
    (whole, expected), again = uninterrupted(tiny()), Trainer(tiny(), examples=digits, directory=tmp_path)
    assert metrics(again.fit().results) == metrics(expected.results)
    assert_same_state(again, whole)


def test_a_training_killed_between_its_two_checkpoints_still_keeps_the_best(tiny, digits, tmp_path, monkeypatch):
    experiment = tiny(optimizer={"lr": 5e-2}, evaluation={"every_images": 200})
    results = Trainer(experiment, examples=digits).fit().results
    best = min(results, key=lambda result: result.metrics["eval/fid"])
    assert best.images not in (results[0].images, results[-1].images)

    def killed(source, target):
        if load_checkpoint(source).results[-1]["images"] == best.images:
            raise Killed
        target.write_bytes(source.read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr("gcsearch.training.trainer.copy_checkpoint", killed)
        with pytest.raises(Killed):
            Trainer(experiment, examples=digits, directory=tmp_path).fit()
    Trainer(experiment, examples=digits, directory=tmp_path).fit()
    assert load_checkpoint(tmp_path / "checkpoints" / "best.pt").results[-1]["images"] == best.images


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"optimizer": {"lr": 1e-3}}, {"training": {"num_images": 4_000}}, {"evaluation": {"seed": 1}}],
)
def test_a_checkpoint_of_another_experiment_is_refused_with_both_fingerprints(tiny, digits, tmp_path, other):
    Trainer(tiny(), examples=digits, directory=tmp_path).fit()
    path = tmp_path / "checkpoints" / "latest.pt"
    content = path.read_bytes()
    experiment = tiny(**other)
    with pytest.raises(CheckpointError) as error:
        Trainer(experiment, examples=digits, directory=tmp_path).fit()
    assert str(error.value).startswith(f"{path}: ")
    assert tiny().fingerprint[:12] in str(error.value)
    assert experiment.fingerprint[:12] in str(error.value)
    assert path.read_bytes() == content


def test_a_checkpoint_of_the_same_experiment_under_another_name_is_taken(tiny, digits, tmp_path):
    Trainer(tiny(), examples=digits, directory=tmp_path).fit()
    renamed = Trainer(tiny(name="renamed"), examples=digits, directory=tmp_path)
    renamed.train_step = pytest.fail
    assert renamed.fit().state == "completed"


def test_a_damaged_checkpoint_stops_the_training_with_its_path(tiny, digits, tmp_path):
    Trainer(tiny(), examples=digits, directory=tmp_path).fit()
    path = tmp_path / "checkpoints" / "latest.pt"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=r"latest\.pt: is not a readable checkpoint"):
        Trainer(tiny(), examples=digits, directory=tmp_path).fit()


def test_a_failed_save_leaves_the_training_able_to_resume(tiny, digits, tmp_path, monkeypatch, uninterrupted):
    save = torch.save

    def full(content, file):
        if content["step"] == 32:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space"):
            Trainer(tiny(), examples=digits, directory=tmp_path).fit()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.pt", "latest.pt"]
    (whole, expected), resumed = uninterrupted(tiny()), Trainer(tiny(), examples=digits, directory=tmp_path)
    assert metrics(resumed.fit().results) == metrics(expected.results)
    assert_same_state(resumed, whole)
