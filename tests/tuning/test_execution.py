"""What Tune's hooks make of trials and messages, without a cluster; and trials that lose their processes."""

from __future__ import annotations

import contextlib
import json
import signal
from types import SimpleNamespace

import pytest
import torch
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from gcsearch.config import Experiment
from gcsearch.errors import ConfigError, StudyError
from gcsearch.ledger import LEDGER_NAME, LedgerWriter, StudyState, read_events
from gcsearch.training.distributed import WorkerLost
from gcsearch.training.session import TrainingRecord
from gcsearch.tuning import execution, trial
from gcsearch.tuning.execution import Execution, LedgerScheduler, LedgerSearcher
from gcsearch.tuning.search_driver import SearchDriver
from gcsearch.tuning.settings import Resources
from gcsearch.tuning.training import OneTraining
from gcsearch.tuning.trial import MESSAGE, describe, fault_in, run_trial, why_lost

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture
def ledger(tmp_path):
    with LedgerWriter(tmp_path / LEDGER_NAME) as writer:
        yield writer


@pytest.fixture
def driver(load, tmp_path, ledger):
    study = load(budget={"trials": 2}, stopping="none", resources={"workers": 2, "max_failures": 1})
    return SearchDriver(study, tmp_path, ledger, StudyState())


@pytest.fixture
def hooks(driver, tmp_path):
    shared = Execution(driver, driver.study.resources, 1, ["/mine"])
    return LedgerSearcher(shared), LedgerScheduler(shared)


def trial_of(config, **fields):
    return SimpleNamespace(config=config, pickled_error_file=None, **fields)


def message(**content):
    return {MESSAGE: json.dumps(content)}


def result(images):
    return {"images": images, "metrics": {"eval/fid": 1.0}, "identities": {"eval/fid": "i"}}


def test_a_trial_is_told_what_it_needs_and_the_next_one_waits_for_room(hooks, driver, tmp_path):
    searcher, scheduler = hooks
    config = searcher.suggest("x")
    assert (config["trial"], config["workers"], config["cpus"], config["gpus"]) == ("0000", 2, 1, 0.0)
    assert config["experiment"]["training"]["num_workers"] == 2
    assert config["directory"] == str(tmp_path / "trials" / "0000")
    assert (config["paths"], config["reported_images"]) == (["/mine"], 0)
    assert searcher.suggest("x") is None
    done = message(outcome={"state": "completed", "reason": None})
    assert scheduler.on_trial_result(None, trial_of(config), done) == TrialScheduler.CONTINUE
    scheduler.on_trial_complete(None, trial_of(config), {})
    config = searcher.suggest("x")
    assert config["trial"] == "0001"
    assert searcher.suggest("x") is None, "the last trial may still lose its process"
    scheduler.on_trial_result(None, trial_of(config), done)
    assert searcher.suggest("x") == Searcher.FINISHED
    assert [record.state for record in driver.state.trials.values()] == ["completed", "completed"]


def test_a_lost_trial_starts_again_from_its_results_and_not_for_ever(hooks, driver, tmp_path):
    searcher, scheduler = hooks
    config = searcher.suggest("x")
    scheduler.on_trial_result(None, trial_of(config), message(result=result(800)))
    scheduler.on_trial_error(None, trial_of(config))
    record = driver.state.trials["0000"]
    assert (record.state, record.losses) == ("interrupted", 1)
    again = searcher.suggest("x")
    assert (again["trial"], again["reported_images"]) == ("0000", 800)
    assert again["experiment"] == config["experiment"]
    scheduler.on_trial_error(None, trial_of(again))
    assert (record.state, record.reason) == ("failed", "its process died, or could not be started")
    assert searcher.suggest("x")["trial"] == "0001"
    kinds = [event["event"] for event in read_events(tmp_path / LEDGER_NAME) if event.get("trial") == "0000"]
    assert kinds.count("trial_lost") == 1
    assert StudyState(read_events(tmp_path / LEDGER_NAME)).trials["0000"].losses == 1


def test_a_trial_that_said_how_it_ended_has_lost_nothing(hooks, driver):
    searcher, scheduler = hooks
    config = searcher.suggest("x")
    scheduler.on_trial_result(None, trial_of(config), message(outcome={"state": "failed", "reason": "ConfigError: x"}))
    scheduler.on_trial_error(None, trial_of(config))
    record = driver.state.trials["0000"]
    assert (record.state, record.reason, record.losses) == ("failed", "ConfigError: x", 0)


def test_the_place_of_a_stopped_trial_is_waited_for(hooks, driver, monkeypatch):
    searcher, scheduler = hooks
    config = searcher.suggest("x")
    scheduler.on_trial_result(None, trial_of(config), message(placed="abc"))
    monkeypatch.setattr(driver, "on_report", lambda trial, _: driver.end(trial, "stopped") or True)
    assert scheduler.on_trial_result(None, trial_of(config), message(result=result(800))) == TrialScheduler.STOP
    free = []
    monkeypatch.setattr(scheduler.execution.places, "are_free", lambda: bool(free))
    assert scheduler.execution.places._left.keys() == {"abc"}
    assert searcher.suggest("x") is None
    free.append(True)
    assert searcher.suggest("x")["trial"] == "0001"


def test_a_trial_without_a_place_ends_the_study_and_not_the_trial(hooks, driver, monkeypatch):
    searcher, scheduler = hooks
    monkeypatch.setattr(execution, "describe_free", lambda _: "no place")
    config = searcher.suggest("x")
    scheduler.on_trial_result(None, trial_of(config), message(unplaced=2))
    scheduler.on_trial_error(None, trial_of(config))
    assert driver.active == {"0000"}
    assert driver.state.trials["0000"].losses == 0
    assert searcher.suggest("x") == Searcher.FINISHED
    assert scheduler.execution.halted == "no place"


def test_a_full_disk_ends_the_study_and_not_the_trial(hooks, driver):
    searcher, scheduler = hooks
    config = searcher.suggest("x")
    assert scheduler.on_trial_result(None, trial_of(config), message(halted="full")) == TrialScheduler.CONTINUE
    scheduler.on_trial_error(None, trial_of(config))
    assert (driver.active, driver.state.trials["0000"].losses) == ({"0000"}, 0)
    assert searcher.suggest("x") == Searcher.FINISHED
    assert scheduler.execution.halted == "full"
    driver.interrupt()
    assert driver.state.trials["0000"].state == "interrupted"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left", "/mnt/x.pt"), {"halted": "/mnt/x.pt: the disk is full. Nothing that was recor"}),
        (OSError(2, "No such file", "/mnt/x.pt"), {"outcome": {"state": "failed"}}),
        (ValueError("bad"), {"outcome": {"state": "failed", "reason": "ValueError: bad"}}),
    ],
)
def test_an_error_of_the_training_is_the_trials_but_a_full_disk_is_not(monkeypatch, error, told):
    messages = []

    def train(*_):
        raise error

    monkeypatch.setattr(trial, "_train", train)
    monkeypatch.setattr(trial, "_send_to_tune", lambda **message: messages.append(message))
    with pytest.raises(type(error)):
        run_trial({"gpus": 0.0})
    (message,) = messages
    assert message.keys() == told.keys()
    if "halted" in told:
        assert message["halted"].startswith(told["halted"])
    else:
        assert told["outcome"].items() <= message["outcome"].items()


def test_a_wait_for_a_place_ends_with_an_error(hooks, monkeypatch):
    _, scheduler = hooks
    now, status = [0.0], ["PENDING"]
    monkeypatch.setattr(execution, "describe_free", lambda _: "no place")
    monkeypatch.setattr(execution.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("ray.tune.schedulers.FIFOScheduler.choose_trial_to_run", lambda *_: None)
    trial = SimpleNamespace(
        is_finished=lambda: False, config={"trial": "0000"}, temporary_state=SimpleNamespace(ray_actor=None)
    )
    controller = SimpleNamespace(get_trials=lambda: [SimpleNamespace(status=status[0], **vars(trial))])
    scheduler.choose_trial_to_run(controller)
    now[0] = execution.PLACE_TIMEOUT_S - 1
    status[0] = "RUNNING"
    scheduler.choose_trial_to_run(controller)
    status[0] = "PENDING"
    scheduler.choose_trial_to_run(controller)
    now[0] = 2 * execution.PLACE_TIMEOUT_S - 2
    scheduler.choose_trial_to_run(controller)
    now[0] = 2 * execution.PLACE_TIMEOUT_S + 2
    with pytest.raises(StudyError, match="no place"):
        scheduler.choose_trial_to_run(controller)


def test_of_trials_that_are_over_tune_keeps_one_and_nothing_large(hooks):
    _, scheduler = hooks
    trials = []
    for number in range(6):
        config = {"trial": f"{number:04d}", "experiment": {"text": "x" * 10_000}}
        trials.append(Trial("anything", stub=True, config=config, evaluated_params=dict(config)))
        trials[-1].run_metadata.last_result = {"config": config}
        trials[-1].run_metadata.update_metric("time", 1.0)
        trials[-1].status = "RUNNING" if number == 5 else "ERROR" if number == 2 else "TERMINATED"
    listed, sizes = list(trials), [len("".join(trial.get_json_state())) for trial in trials]
    scheduler.choose_trial_to_run(SimpleNamespace(get_trials=lambda: listed))
    assert listed == trials[4:]
    now = [len("".join(trial.get_json_state())) for trial in trials]
    assert now[4:] == sizes[4:], "the one that is kept, and one that runs, are as they were"
    assert min(sizes) > 20_000 > 3_000 > max(now[:4])


def test_a_trial_that_says_nothing_for_too_long_is_killed_and_starts_again(hooks, driver, monkeypatch):
    searcher, scheduler = hooks
    limit = 60 * driver.study.resources.hang_minutes
    now, killed = [0.0], []
    monkeypatch.setattr(execution.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("ray.tune.schedulers.FIFOScheduler.choose_trial_to_run", lambda *_: None)
    monkeypatch.setattr("ray.kill", killed.append)
    config = searcher.suggest("x")
    running = trial_of(
        config, status="RUNNING", is_finished=lambda: False, temporary_state=SimpleNamespace(ray_actor="actor")
    )
    controller = SimpleNamespace(get_trials=lambda: [running])

    def look_at(seconds):
        now[0] = seconds
        scheduler.choose_trial_to_run(controller)

    running.status = "PENDING"
    look_at(limit)
    running.status = "RUNNING"
    look_at(2 * limit + execution.PLACE_TIMEOUT_S)
    assert killed == [], "a start has more time"
    now[0] = 2 * limit - 1
    scheduler.on_trial_result(None, running, message(progress=[32, 1.0]))
    look_at(3 * limit - 2)
    assert killed == []
    look_at(3 * limit)
    look_at(3 * limit + 1)
    assert killed == ["actor"], "once"
    scheduler.on_trial_error(None, running)
    record = driver.state.trials["0000"]
    assert (record.state, record.losses) == ("interrupted", 1)
    assert record.reason == (
        "it hung, and was ended: no step and no report for 120 minutes. If it was only slow, raise "
        "resources.hang_minutes"
    )
    assert searcher.suggest("x")["trial"] == "0000"
    scheduler.choose_trial_to_run(controller)
    assert len(killed) == 1, "the new start has its own time"
    scheduler.on_trial_error(None, running)
    assert (record.state, record.reason) == ("failed", "its process died, or could not be started")


def test_how_long_a_trial_may_be_silent_is_a_setting(load):
    assert load(resources={"hang_minutes": 0.5}).resources.hang_minutes == 0.5
    with pytest.raises(ConfigError, match=r"hang_minutes must be > 0, got 0"):
        load(resources={"hang_minutes": 0})


def test_a_reason_says_what_to_do_about_memory():
    advice = "Lower training.batch_size, or let fewer trials share a machine (resources.concurrent)"
    ended = RayActorError(error_msg="The actor died. Worker exit type: NODE_OUT_OF_MEMORY Worker exit detail: Task was")
    assert why_lost(ended).startswith(f"its process was ended because its machine ran out of memory. {advice}. RayAct")
    monitor = RayActorError(
        error_msg="1 worker(s) were killed due to the node running low on memory.\nObject store: [..]"
    )
    assert why_lost(monitor) == (
        f"its process was ended because its machine ran out of memory. {advice}. RayActorError: 1 worker(s) were "
        "killed due to the node running low on memory."
    )
    killed = RayActorError(error_msg="potential root causes. (1) The process is killed by SIGKILL by OOM killer due to")
    assert why_lost(killed).startswith(
        "its process was killed, as a machine does that runs out of memory. If it did: L"
    )
    assert why_lost(ValueError("bad")) == "ValueError: bad"
    assert describe(MemoryError("8 GB")) == f"out of memory. {advice}. MemoryError: 8 GB"
    assert describe(torch.cuda.OutOfMemoryError("8 GB")).startswith("out of memory. Lower")
    assert describe(ValueError()) == "ValueError: no message"


def wrapped(error):
    return UserExceptionWithTraceback(error, "Traceback")


def test_the_fault_is_told_from_what_follows_from_it():
    fault, lost = ValueError("bad"), WorkerLost("peer")
    assert fault_in([lost, fault]) is fault
    assert fault_in([wrapped(fault), wrapped(lost)]) is fault
    assert fault_in([lost, lost]) is None
    assert fault_in([wrapped(lost)]) is None
    assert fault_in([]) is None
    for died in (RayActorError(), WorkerHealthCheckFailedError("gone", RayActorError())):
        assert fault_in([RuntimeError("communication"), died]) is None
        assert fault_in([died]) is None


# Where the number of workers comes from ---------------------------------------------------------------------------


def test_the_experiment_gives_the_number_of_workers_and_the_study_may_give_another(load):
    assert load().resources == Resources()
    study = load(assignments=["training.num_workers=4"])
    assert (study.resources.workers, study.experiment.training.num_workers) == (4, 4)
    study = load(assignments=["training.num_workers=4"], resources={"workers": 2})
    assert (study.resources.workers, study.experiment.training.num_workers) == (2, 2)
    params = {"coupling.mu": 0.5, "timesteps": "fixed", "timesteps.num_levels": 10}
    assert study.experiment_of(params).training.num_workers == 2
    assert study.identity() == load().identity()


def test_a_batch_that_the_workers_cannot_share_is_an_error_of_the_study(load):
    with pytest.raises(ConfigError, match=r"training.batch_size must be a multiple of num_workers = 3, got 64"):
        load(resources={"workers": 3})
    with pytest.raises(ConfigError, match=r"training.batch_size must be a multiple of num_workers = 4, got 30"):
        load(resources={"workers": 4}, space={"training.batch_size": {"values": [64, 30]}})


def test_the_number_of_workers_is_not_searched(load):
    with pytest.raises(ConfigError, match=r"training.num_workers must not be searched: .* Set resources.workers"):
        load(space={"training.num_workers": {"values": [1, 2]}})


# A single training ------------------------------------------------------------------------------------------------


@pytest.fixture
def training(tmp_path, ledger):
    experiment = Experiment.from_dict({"name": "one", "data": "digits", "training": {"num_workers": 2}})
    told = []
    record = TrainingRecord(experiment, tmp_path, ledger, told.append)
    return OneTraining(record, 1, lambda *progress: told.append(progress)), told


def test_a_single_training_keeps_its_ledger(training, tmp_path):
    one, told = training
    assert one.next_trial().config["training"]["num_workers"] == 2
    assert one.next_trial() is None
    one.on_report("0000", {"samples": [0, "000000000.png"]})
    one.on_report("0000", {"progress": [32, 10.0]})
    one.on_report("0000", {"result": result(512)})
    one.on_lost("0000", "killed")
    assert one.next_trial().images == 512
    one.on_report("0000", {"result": result(512)})
    one.on_report("0000", {"result": result(1024)})
    one.on_report("0000", {"outcome": {"state": "completed", "reason": None}})
    assert one.outcome == ("completed", None)
    assert one.next_trial() is None
    kinds = [event["event"] for event in read_events(tmp_path / LEDGER_NAME)]
    before = ["study_started", "trial_started", "samples", "result", "trial_lost", "trial_ended"]
    assert kinds == [*before, "trial_started", "result", "trial_ended", "study_ended"]
    assert told[3] == ("0000", 32, 10.0)
    assert (tmp_path / "config.yaml").exists()


def test_a_single_training_that_dies_too_often_has_failed(training):
    one, _ = training
    for _ in range(2):
        one.next_trial()
        one.on_lost("0000", "killed")
    assert one.outcome == ("failed", "killed")
    one.interrupt()
    assert one.outcome == ("failed", "killed")


def test_a_single_training_that_is_interrupted_can_go_on(training, tmp_path):
    one, _ = training
    one.next_trial()
    one.interrupt()
    events = read_events(tmp_path / LEDGER_NAME)
    assert [event["event"] for event in events][-2:] == ["trial_ended", "study_interrupted"]
    assert StudyState(events).trials["0000"].state == "interrupted"


def test_ctrl_c_that_a_callback_of_ray_loses_ends_the_trials_all_the_same(hooks):
    _, scheduler = hooks
    with execution.interruptible(scheduler.execution):
        with contextlib.suppress(KeyboardInterrupt):  # as Ray does in callbacks from C
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            scheduler.choose_trial_to_run(None)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
