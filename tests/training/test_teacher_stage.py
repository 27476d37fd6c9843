"""A teacher that is trained for an experiment: once, kept in the cache, found by whoever needs the same."""

from __future__ import annotations

import dataclasses
import json
import threading

import pytest
import torch

from gcsearch.config import Experiment
from gcsearch.errors import CheckpointError, ConfigError, TeacherError
from gcsearch.files import supply
from gcsearch.science.objectives.denoising import Denoising
from gcsearch.training import Trainer, load_checkpoint, teacher_stage
from gcsearch.training.session import run_training
from gcsearch.training.step import Learner
from gcsearch.training.teacher_stage import prepare, prepare_all, teacher_file

CPU = torch.device("cpu")
TEACHER = {"name": "trained", "num_images": 640, "batch_size": 32}
DISTILLED = {"name": "consistency_distillation", "teacher": TEACHER}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own."""
    monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def trainings(monkeypatch):
    """The teachers that were trained so far."""
    done, train = [], teacher_stage._train

    def counted(stage, path, tell):
        done.append(stage.fingerprint)
        train(stage, path, tell)

    monkeypatch.setattr(teacher_stage, "_train", counted)
    return done


def test_stage_is_a_denoiser_on_data_and_process_of_the_experiment(tiny):
    experiment = tiny(objective=DISTILLED, seed=5)
    stage = experiment.teacher_stage
    assert (stage.data, stage.process, stage.network) == (experiment.data, experiment.process, experiment.network)
    assert (stage.objective, stage.seed, stage.training.num_images) == (Denoising(), 0, 640)
    assert stage.teacher_stage is None
    assert tiny().teacher_stage is None
    assert experiment.files()[stage.model_name] == stage.model_path
    assert Experiment.from_dict(stage.to_dict()) == stage


def test_experiments_share_a_teacher_unless_something_of_it_differs(tiny):
    def of(teacher=TEACHER, **sections):
        return tiny(objective={**DISTILLED, "teacher": teacher}, **sections).teacher_stage.fingerprint

    own = {**TEACHER, "network": {"name": "mlp", "width": 24}}
    same = [of(), of(seed=3), of(optimizer={"lr": 1e-3}), of(timesteps={"num_levels": 9}), of(name="other")]
    assert len(set(same)) == 1
    assert of(network={"width": 20}) != of()
    assert of(own, network={"width": 20}) == of(own) != of()
    assert of({**TEACHER, "num_images": 320}) != of() != of({**TEACHER, "seed": 1})


def test_teacher_is_trained_once_and_is_its_own_training_to_the_last_bit(tiny, trainings):
    experiment, lines = tiny(objective=DISTILLED), []
    record = prepare(experiment, lines.append)
    assert prepare(tiny(objective=DISTILLED, seed=9)) == record
    assert trainings == [experiment.teacher_stage.fingerprint] == [record.fingerprint]
    assert record.images == 640
    assert record.train_seconds > 0
    assert record.forward_units == 3 * 640
    assert [line.split(":")[0].split(" on ")[0] for line in lines] == [
        f"Training the teacher {record.fingerprint[:16]}",
        f"Teacher {record.fingerprint[:16]}",
    ]
    itself = Trainer(experiment.teacher_stage)
    itself.fit()
    learner = Learner(experiment, CPU)
    expected = itself.learner.average.state_dict()
    torch.testing.assert_close(learner.models.teacher.network.state_dict(), expected, rtol=0, atol=0)
    torch.testing.assert_close(learner.network.state_dict(), expected, rtol=0, atol=0)


@pytest.mark.slow
def test_teachers_of_many_recipes_are_told_once_each(tiny, trainings):
    lines = []
    other = {**DISTILLED, "teacher": {**TEACHER, "seed": 1}}
    recipes = [
        tiny(objective=DISTILLED),
        tiny(),
        tiny(objective=other),
        tiny(objective={**DISTILLED, "solver": "euler"}),
    ]
    assert len(prepare_all(recipes, lines.append)) == len(trainings) == 2
    assert len(lines) == 4


@pytest.mark.slow
def test_of_two_that_want_a_teacher_one_trains_it(tiny, trainings):
    stage = tiny(objective=DISTILLED).teacher_stage
    lines, threads = [], [threading.Thread(target=lambda: teacher_file(stage, lines.append)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trainings) == 1
    assert stage.model_path.is_file()


@pytest.mark.slow
def test_a_teacher_that_was_interrupted_goes_on_where_it_was(tiny, monkeypatch):
    experiment = tiny(objective=DISTILLED)
    stage, step = experiment.teacher_stage, Trainer.train_step
    seen = []

    def interrupted(self):
        if self.step == 7 and not seen:
            seen.append(self.step)
            self.save()
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(experiment)
    assert not stage.model_path.exists()
    assert load_checkpoint(stage.model_path.parent / "checkpoints" / "latest.pt").step == 7
    prepare(experiment)
    whole = Trainer(stage)
    whole.fit()
    network = Learner(experiment, CPU).models.teacher.network
    torch.testing.assert_close(network.state_dict(), whole.learner.average.state_dict(), rtol=0, atol=0)


def test_a_teacher_that_diverges_is_one_error_and_leaves_nothing_to_be_found(tiny, tmp_path):
    wild = {**TEACHER, "optimizer": {"name": "adam", "lr": 1e30}}
    experiment = tiny(objective={**DISTILLED, "teacher": wild})
    with pytest.raises(TeacherError, match=r"^objective\.teacher: its training must end well, but it diverged: step "):
        run_training(experiment, tmp_path / "run")
    assert not experiment.teacher_stage.model_path.exists()
    assert not (tmp_path / "run").exists()


def test_a_cache_that_cannot_be_written_to_is_one_error(tiny, cache):
    cache.write_text("a file")
    with pytest.raises(
        Exception, match=r"must keep the weights of a teacher, but: .* another folder with GCSEARCH_CACHE"
    ):
        prepare(tiny(objective=DISTILLED))


@pytest.mark.slow
def test_the_ledger_says_what_the_teacher_cost(tiny, tmp_path):
    experiment = tiny(objective=DISTILLED, training={"num_images": 320}, evaluation={"every_images": 320})
    events = []
    run_training(experiment, tmp_path / "run", on_event=events.append)
    (event,) = [event for event in events if event["event"] == "teacher"]
    assert event["fingerprint"] == experiment.teacher_stage.fingerprint
    assert {"images", "train_seconds", "evaluation_seconds", "forward_units", "score", "metric"} <= event.keys()
    assert [one["event"] for one in events][:3] == ["study_started", "teacher", "trial_started"]


def test_a_training_finds_the_teacher_where_it_was_supplied(tiny, tmp_path, monkeypatch):
    experiment = tiny(objective=DISTILLED)
    prepare(experiment)
    stage = experiment.teacher_stage
    moved = tmp_path / "copy.safetensors"
    stage.model_path.rename(moved)
    with pytest.raises(CheckpointError, match="No such file"):
        Learner(experiment, CPU)
    supply({stage.model_name: moved})
    try:
        assert teacher_file(stage) == moved
        Learner(experiment, CPU)
    finally:
        supply({})


def test_to_measure_times_an_untrained_teacher_will_do(tiny):
    learner = Learner(tiny(objective=DISTILLED), CPU, may_be_untrained=True)
    assert learner.models.teacher is not None


@pytest.mark.slow
def test_teacher_of_another_network_cannot_start_the_student(tiny):
    teacher = {**TEACHER, "network": {"name": "mlp", "width": 24}}
    experiment = tiny(objective={**DISTILLED, "teacher": teacher})
    prepare(experiment)
    with pytest.raises(CheckpointError, match=r"objective\.teacher: must have the network of the experiment"):
        Learner(experiment, CPU)
    afresh = dataclasses.replace(experiment, objective=dataclasses.replace(experiment.objective, start="random"))
    assert Learner(afresh, CPU).models.teacher is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_images": 0}, "objective.teacher.num_images must be at least 1, got 0"),
        ({"batch_size": 641}, "objective.teacher.batch_size must be at most num_images = 640, got 641"),
        ({"seed": -1}, "objective.teacher.seed must be >= 0, got -1"),
        ({"network": {"name": "unet"}, "levels": {"name": "lognormal", "mean": 300.0}}, "objective.teacher"),
    ],
)
def test_teachers_that_mean_nothing_are_refused(tiny, fields, message):
    with pytest.raises(ConfigError, match=message):
        tiny(objective={**DISTILLED, "teacher": {**TEACHER, **fields}})


@pytest.mark.slow
def test_record_is_plain_json_beside_the_weights(tiny):
    from safetensors import safe_open

    experiment = tiny(objective=DISTILLED)
    record = prepare(experiment)
    with safe_open(experiment.teacher_stage.model_path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["record"]) == dataclasses.asdict(record)
    assert Experiment.from_dict(json.loads(metadata["config"])) == experiment.teacher_stage
