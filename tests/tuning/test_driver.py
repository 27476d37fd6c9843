"""The driver without Ray: a loop that trains synthetic curves one after the other into a real ledger."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import datetime, timedelta

import pytest

from gcsearch.errors import ConfigError, StudyError
from gcsearch.ledger import ENDED, LEDGER_NAME, LedgerWriter, StudyState, read_events
from gcsearch.tuning.cluster import concurrency
from gcsearch.tuning.driver import Driver
from gcsearch.tuning.spec import Resources, load_study
from gcsearch.tuning.study import run_study

STUDY = {
    "space": {
        "coupling.mu": {"min": 0.0, "max": 1.0},
        "timesteps": {
            "values": [
                {"name": "fixed", "num_levels": {"values": [10, 20]}},
                {"name": "exponential", "s0": 10, "s1": {"min": 40, "max": 160}},
            ]
        },
        "network.dropout": {"min": 0.0, "max": 0.5, "when": {"timesteps.name": "exponential"}},
    },
    "budget": {"trials": 9},
    "search": {"sampler": {"name": "auto", "min_observations": 3, "random_share": 0.2}, "seed": 0},
    "stopping": {"name": "asha", "min_images": 800, "factor": 2, "within": "none"},
}
ASSIGNMENTS = ["training.num_images=3200"]
RUNGS = (800, 1600, 2400, 3200)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Nobody pulls the plug in these tests."""
    monkeypatch.setattr("gcsearch.ledger.os.fsync", lambda _: None)


@pytest.fixture
def study(study_file):
    return load(study_file)


def load(study_file, **sections):
    return load_study(study_file(**STUDY | sections), assignments=ASSIGNMENTS)


def score(params, images):
    """Falls with training; curves of different parameters cross; large mu diverges late."""
    mu = params["coupling.mu"]
    speed = 2.0 if params["timesteps"] == "fixed" else 1.0
    return (mu - 0.3) ** 2 + 0.1 * params.get("network.dropout", 0.0) + math.exp(-speed * images / 1600)


def diverges(params, images):
    return params["coupling.mu"] > 0.85 and images > 800


class Killed(Exception):  # noqa: N818 - not an error
    """The driver's process is gone."""


class Training:
    """One trial as a trainer reports it; its checkpoint outlives the driver."""

    def __init__(self, driver, record, checkpoints):
        self.driver, self.record, self.checkpoints = driver, record, checkpoints
        self.messages = self._messages(record.images)

    def _messages(self, reported):
        params, trial = self.record.params, self.record.trial
        if trial not in self.checkpoints:
            yield {"samples": [0, "000000000.png"]}
        for images in RUNGS:
            if images > self.checkpoints.get(trial, 0):
                yield {"progress": [images - 1, 10.0]}
                if diverges(params, images):
                    yield {"outcome": {"state": "diverged", "reason": f"{images} images: loss must be finite."}}
                    return
                yield {"samples": [images, f"{images:09d}.png"]}
                self.checkpoints[trial] = images
            if images > reported:
                metrics = {"eval/fid": score(params, images), "train/loss": 1.0}
                yield {"result": {"images": images, "metrics": metrics, "identities": {"eval/fid": "i"}}}
        yield {"outcome": {"state": "completed", "reason": None}}

    def step(self):
        """Whether there is more to do."""
        message = next(self.messages, None)
        return message is not None and not self.driver.on_report(self.record.trial, message)


def run(study, directory, checkpoints=None, *, concurrent=1, observers=(), stop_after=None):
    """What `run_study` does, with a loop in place of Ray."""
    checkpoints = {} if checkpoints is None else checkpoints
    with LedgerWriter(directory / LEDGER_NAME) as ledger:
        events = read_events(directory / LEDGER_NAME)
        driver = Driver(study, directory, ledger, StudyState(events), observers)
        driver.write("study_started", study=study.name)
        running, steps = [], 0
        while True:
            while len(running) < concurrent and (record := driver.next_trial()):
                running.append(Training(driver, record, checkpoints))
            if not running:
                break
            for training in list(running):
                steps += 1
                if stop_after is not None and steps > stop_after:
                    raise Killed
                if not training.step():
                    running.remove(training)
        driver.write("study_ended")
        return driver.state


def outcome(state):
    """All that a study is about: who was tried, with what scores and what end."""
    return {
        trial: (
            record.params,
            record.config,
            record.seed,
            record.state,
            record.reason,
            [(result.images, result.metrics, result.identities) for result in record.results],
            record.samples,
        )
        for trial, record in state.trials.items()
    }


def check_ledger(directory):
    """What holds for every ledger, however often its driver was killed."""
    ended, results = set(), set()
    for event in read_events(directory / LEDGER_NAME):
        trial = event.get("trial")
        if event["event"] == "trial_started":
            assert trial not in ended, f"{trial} had ended"
        if event["event"] == "result":
            assert (trial, event["images"]) not in results, f"result {trial} at {event['images']} twice"
            results.add((trial, event["images"]))
        if event["event"] == "trial_ended" and event["state"] in ENDED:
            assert trial not in ended, f"{trial} ended twice"
            ended.add(trial)
    return ended


def lines_of(directory):
    return (directory / LEDGER_NAME).read_bytes().splitlines(keepends=True)


def test_a_study_spends_its_budget_and_ends_every_trial(study, tmp_path):
    state = run(study, tmp_path / "a")
    assert list(state.trials) == [f"{number:04d}" for number in range(9)]
    assert {record.state for record in state.trials.values()} == {"completed", "stopped", "diverged"}
    assert check_ledger(tmp_path / "a") == set(state.trials)
    assert state.ended
    for record in state.trials.values():
        assert (tmp_path / "a" / "trials" / record.trial / "config.yaml").exists()
        if record.state == "completed":
            assert [result.images for result in record.results] == list(RUNGS)
        if record.state == "stopped":
            assert record.images in (800, 1600)


def test_the_same_seed_gives_the_same_study_and_another_seed_another(study_file, tmp_path):
    first = outcome(run(load(study_file), tmp_path / "a"))
    assert outcome(run(load(study_file), tmp_path / "b")) == first
    other = load(study_file, search={**STUDY["search"], "seed": 5})
    assert outcome(run(other, tmp_path / "c")) != first


@pytest.mark.parametrize("checkpoint", ["as the ledger", "ahead of the ledger", "lost"])
def test_killed_at_any_event_and_resumed_it_is_the_study_that_was_never_killed(study, tmp_path, checkpoint):
    whole = outcome(run(study, tmp_path / "whole"))
    lines = lines_of(tmp_path / "whole")
    step = 1 if checkpoint == "as the ledger" else 3
    for count in range(0, len(lines) + 1, step):
        directory = tmp_path / f"killed-{count}"
        directory.mkdir()
        torn = b'{"event": "resu' if count % 3 == 0 else b""
        (directory / LEDGER_NAME).write_bytes(b"".join(lines[:count]) + torn)
        known = StudyState([json.loads(line) for line in lines[:count]])
        checkpoints = {trial: record.images for trial, record in known.trials.items() if record.images}
        if checkpoint == "ahead of the ledger":
            for record in known.of_state("running"):
                following = next((rung for rung in RUNGS if rung > record.images), record.images)
                if following in record.samples:  # its grid is told before it is saved
                    checkpoints[record.trial] = following
        if checkpoint == "lost":
            checkpoints.clear()
        resumed = run(study, directory, checkpoints)
        assert outcome(resumed) == whole, f"killed after line {count}: {lines[count - 1 : count]}"
        check_ledger(directory)


def test_killed_again_and_again_it_is_the_study_that_was_never_killed(study, tmp_path):
    whole = outcome(run(study, tmp_path / "whole"))
    checkpoints = {}
    for _ in range(200):
        try:
            resumed = run(study, tmp_path / "often", checkpoints, stop_after=5)
        except Killed:
            continue
        break
    assert outcome(resumed) == whole
    check_ledger(tmp_path / "often")


def test_several_at_a_time_and_killed_anywhere_every_trial_ends_once(study, tmp_path):
    for stop_after in range(0, 60, 7):
        directory, checkpoints = tmp_path / str(stop_after), {}
        with pytest.raises(Killed):
            run(study, directory, checkpoints, concurrent=3, stop_after=stop_after)
        state = run(study, directory, checkpoints, concurrent=3)
        assert check_ledger(directory) == set(state.trials)
        assert len(state.trials) == 9


def test_a_decision_that_was_not_recorded_is_made_on_what_was_known_then(study_file, tmp_path):
    """Trial 1 went on at its rung as the first there; that others did better since does not stop it on resume."""
    study = load(study_file, search={"sampler": "random", "start_from": [{"coupling.mu": 0.8}, {"coupling.mu": 0.3}]})
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState())
        driver.write("study_started")
        for value in (5.0, 1.0):
            record = driver.next_trial()
            result = {"images": 800, "metrics": {"eval/fid": value}, "identities": {}}
            assert not driver.on_report(record.trial, {"result": result})
            later = datetime.fromisoformat(driver.state.trials[record.trial].results[0].time) + timedelta(seconds=1)
            while datetime.now(later.tzinfo) < later - timedelta(seconds=0.99):
                pass
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState(read_events(tmp_path / LEDGER_NAME)))
        assert driver.next_trial().trial == "0000"
        assert driver.next_trial().trial == "0001"


def test_unfinished_trials_go_first_under_their_number_and_with_their_parameters(study, tmp_path):
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState())
        started = [driver.next_trial() for _ in range(3)]
        params = [dict(record.params) for record in started]
        driver.end("0001", "completed")
        driver.interrupt()
        assert driver.next_trial() is None
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState(read_events(tmp_path / LEDGER_NAME)))
        assert [record.state for record in driver.state.trials.values()] == ["interrupted", "completed", "interrupted"]
        again = [driver.next_trial() for _ in range(3)]
        assert [record.trial for record in again] == ["0000", "0002", "0003"]
        assert [record.params for record in again[:2]] == [params[0], params[2]]
        assert {record.state for record in again} == {"running"}


def test_an_extension_adds_exactly_the_difference(study_file, tmp_path):
    small = load(study_file, budget={"trials": 5})
    first = outcome(run(small, tmp_path / "a"))
    assert len(first) == 5
    extended = outcome(run(load(study_file), tmp_path / "a"))
    assert len(extended) == 9
    assert {trial: extended[trial] for trial in first} == first
    assert extended == outcome(run(load(study_file), tmp_path / "b"))
    assert outcome(run(small, tmp_path / "a")) == extended  # less than there is: nothing to do


def test_start_from_comes_first_and_what_it_leaves_out_is_drawn(study_file, tmp_path):
    start = [{"coupling.mu": 0.25, "timesteps": "exponential"}, {"coupling.mu": 0.75}]
    study = load(study_file, search={"sampler": "random", "start_from": start})
    trials = run(study, tmp_path).trials
    assert trials["0000"].params["coupling.mu"] == 0.25
    assert trials["0000"].params["timesteps"] == "exponential"
    assert 40 < trials["0000"].params["timesteps.s1"] <= 160
    assert trials["0001"].params["coupling.mu"] == 0.75
    assert trials["0002"].params["coupling.mu"] not in (0.25, 0.75)


def test_wall_hours_stop_new_trials_over_all_runs_but_let_started_ones_end(study_file, tmp_path, monkeypatch):
    study = load(study_file, budget={"trials": 9, "wall_hours": 1.0})
    now = [0.0]
    monkeypatch.setattr("gcsearch.tuning.driver.time.monotonic", lambda: now[0])
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState())
        driver.write("study_started")
        assert driver.next_trial() is not None
        now[0] = 3599.0
        assert driver.next_trial() is not None
        now[0] = 3601.0
        assert driver.next_trial() is None
    lines = [json.loads(line) for line in lines_of(tmp_path)]
    lines[-1]["time"] = (datetime.fromisoformat(lines[0]["time"]) + timedelta(hours=1.5)).isoformat()
    (tmp_path / LEDGER_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState(lines))
        driver.write("study_started")
        assert driver.budget_is_spent()
        assert driver.has_work()
        assert [driver.next_trial().trial for _ in range(2)] == ["0000", "0001"]
        assert driver.next_trial() is None


def test_reports_that_are_repeated_or_late_change_nothing(study, tmp_path):
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState())
        trial = driver.next_trial().trial
        result = {"images": 800, "metrics": {"eval/fid": 1.0}, "identities": {}}
        assert not driver.on_report(trial, {"result": result})
        assert not driver.on_report(trial, {"samples": [800, "a.png"]})
        before = lines_of(tmp_path)
        assert not driver.on_report(trial, {"result": result | {"metrics": {"eval/fid": 2.0}}})
        assert not driver.on_report(trial, {"samples": [800, "a.png"]})
        assert lines_of(tmp_path) == before
        driver.on_report(trial, {"outcome": {"state": "completed", "reason": None}})
        before = lines_of(tmp_path)
        assert driver.on_report(trial, {"result": result | {"images": 1600}})
        assert lines_of(tmp_path) == before


class Watcher:
    def __init__(self):
        self.events, self.progress = [], []

    def on_event(self, event):
        self.events.append(event)

    def on_progress(self, trial, images, images_per_second):
        self.progress.append((trial, images, images_per_second))


def test_observers_get_every_event_once_and_after_it_is_on_disk(study, tmp_path):
    class Careful(Watcher):
        def on_event(self, event):
            assert json.loads(lines_of(tmp_path)[-1]) == event
            super().on_event(event)

    watcher = Careful()
    run(study, tmp_path, observers=[watcher])
    assert watcher.events == read_events(tmp_path / LEDGER_NAME)
    assert watcher.progress
    assert all(images % 800 == 799 for _, images, _ in watcher.progress)


def test_run_study_tells_observers_of_earlier_runs_first_and_needs_no_cluster_when_all_is_done(study, tmp_path):
    run(study, tmp_path / study.name)
    watcher = Watcher()
    state = run_study(study, tmp_path, observers=[watcher])
    assert watcher.events == read_events(tmp_path / study.name / LEDGER_NAME)
    assert [event["event"] for event in watcher.events[-2:]] == ["study_started", "study_ended"]
    assert outcome(state) == outcome(StudyState(watcher.events))


def test_a_study_whose_last_decision_was_lost_is_settled_without_a_cluster(study, tmp_path):
    whole = run(study, tmp_path / "whole")
    lines = lines_of(tmp_path / "whole")
    last = max(n for n, line in enumerate(lines) if b'"trial_ended"' in line and b'"stopped"' in line)
    known = StudyState([json.loads(line) for line in lines[:last]])
    few = load_with_trials(study, len(known.trials))
    directory = tmp_path / study.name
    directory.mkdir()
    (directory / LEDGER_NAME).write_bytes(b"".join(lines[:last]))
    trial = json.loads(lines[last])["trial"]
    assert outcome(run_study(few, tmp_path))[trial] == outcome(whole)[trial]


def load_with_trials(study, trials):
    return dataclasses.replace(study, budget=dataclasses.replace(study.budget, trials=trials))


def test_a_diverged_trial_is_worst_at_every_later_rung_and_not_before(study, tmp_path):
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState())
        first, second = driver.next_trial(), driver.next_trial()
        driver.on_report(first.trial, {"result": {"images": 800, "metrics": {"eval/fid": 1.0}, "identities": {}}})
        driver.on_report(first.trial, {"outcome": {"state": "diverged", "reason": "non-finite loss"}})
        assert driver.rung_table(second) == {
            800: {"0000": 1.0},
            1600: {"0000": math.inf},
            2400: {"0000": math.inf},
            3200: {"0000": math.inf},
        }
        assert driver.observations()[0].scores == {800: 1.0, 1600: math.inf, 2400: math.inf, 3200: math.inf}
        assert driver.observations()[1].is_running


def test_stopping_compares_only_inside_the_key_it_is_told(study_file, tmp_path):
    study = load(study_file, stopping=STUDY["stopping"] | {"within": "auto"})
    assert study.within == "timesteps"
    run(study, tmp_path)
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState(read_events(tmp_path / LEDGER_NAME)))
        for record in driver.state.trials.values():
            others = {trial for scores in driver.rung_table(record).values() for trial in scores}
            kinds = {driver.state.trials[trial].params["timesteps"] for trial in others}
            assert kinds <= {record.params["timesteps"]}


def test_values_that_are_illegal_together_fail_one_trial_and_not_the_study(study_file, tmp_path):
    space = {"process.sigma_min": {"values": [0.1, 40.0]}, "process.sigma_max": {"values": [60.0, 30.0]}}
    experiment = "name: tiny\ndata: digits\nnetwork: {name: mlp, width: 16}\nprocess: {sigma_min: 1, sigma_max: 60}\n"
    experiment += "training: {num_images: 3_200}\nevaluation: {every_images: 800, metrics: [fid]}\n"
    path = study_file(space=space, experiment="tiny", budget={"trials": 30}, search={"sampler": "random"})
    (path.parent / "experiments" / "tiny.yaml").write_text(experiment)
    study = load_study(path)
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path, ledger, StudyState())
        while record := driver.next_trial():
            driver.end(record.trial, "completed")
    states = [record.state for record in driver.state.trials.values()]
    assert len(states) == 30
    assert set(states) == {"completed", "failed"}
    failed = next(driver.state.of_state("failed"))
    assert "sigma_m" in failed.reason
    assert failed.params["process.sigma_min"] >= failed.params["process.sigma_max"]


# Going on with a study


@pytest.mark.parametrize(
    ("change", "old", "new"),
    [
        ({"space": STUDY["space"] | {"coupling.mu": {"min": 0.0, "max": 0.9}}}, "max: 1.0", "max: 0.9"),
        ({"stopping": STUDY["stopping"] | {"factor": 3}}, "factor: 2", "factor: 3"),
        ({"stopping": "none"}, "asha", "none"),
        ({"objective": {"metric": "fid_online"}}, "metric: fid,", "metric: fid_online"),
        ({"objective": {"use": "best"}}, "use: last", "use: best"),
    ],
    ids=["space", "factor", "stopping", "metric", "use"],
)
def test_a_changed_study_is_refused_with_both_values(study_file, tmp_path, change, old, new):
    study = load(study_file)
    run(study, tmp_path / study.name)
    run_study(study, tmp_path)
    before = lines_of(tmp_path / study.name)
    with pytest.raises(StudyError) as caught:
        run_study(load(study_file, **change), tmp_path)
    removed = [line for line in str(caught.value).splitlines() if line.startswith("    -")]
    added = [line for line in str(caught.value).splitlines() if line.startswith("    +")]
    assert any(old in line for line in removed)
    assert any(new in line for line in added)
    assert len(removed) <= 2
    assert "--name" in str(caught.value)
    assert lines_of(tmp_path / study.name) == before


def test_a_changed_experiment_is_refused_with_both_values(study_file, tmp_path):
    study = load(study_file)
    run(study, tmp_path / study.name)
    run_study(study, tmp_path)
    changed = load_study(study_file(**STUDY), assignments=[*ASSIGNMENTS, "optimizer.lr=1e-3"])
    with pytest.raises(StudyError) as caught:
        run_study(changed, tmp_path)
    assert "lr: 0.0005" in str(caught.value)
    assert "lr: 0.001" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"budget": {"trials": 9, "wall_hours": 100}},
        {"resources": {"concurrent": 7}},
        {"search": {"sampler": "random", "seed": 99}},
    ],
    ids=["nothing", "budget", "resources", "search"],
)
def test_what_does_not_touch_the_trials_may_change(study_file, tmp_path, change):
    study = load(study_file)
    run(study, tmp_path / study.name)
    run_study(study, tmp_path)
    assert len(run_study(load(study_file, **change), tmp_path).trials) == 9


def test_numbers_and_odd_words_of_a_space_survive_the_study_file(study_file, tmp_path):
    space = {
        "optimizer": {
            "values": [
                {"name": "lion", "lr": {"min": 1e-05, "max": 1e-3, "scale": "log"}},
                {"name": "adam", "lr": {"min": 1e-4, "max": 12345678.9, "scale": "log"}, "betas": [0.9, 0.999]},
            ]
        },
        "coupling.mu_end": {"values": [None, 1, 0.1]},
        "training.compile": {"values": [False, True]},
        "network.dropout": {"min": 0, "max": 0.5, "when": {"optimizer.name": ["lion", "on", "1e3", "null", "~"]}},
    }
    study = load(study_file, space=space, budget={"trials": 2})
    with LedgerWriter(tmp_path / study.name / LEDGER_NAME) as ledger:
        driver = Driver(study, tmp_path / study.name, ledger, StudyState())
        while record := driver.next_trial():
            driver.end(record.trial, "completed")
    for _ in range(3):
        run_study(study, tmp_path)


def test_two_drivers_on_one_study_are_refused(study, tmp_path):
    run(study, tmp_path / study.name)
    with (
        LedgerWriter(tmp_path / study.name / LEDGER_NAME),
        pytest.raises(StudyError, match="another process is writing this study"),
    ):
        run_study(study, tmp_path)


# Room for trials


@pytest.mark.parametrize(
    ("resources", "available", "wanted"),
    [
        ({}, {"CPU": 2.0}, 2),
        ({"cpus_per_worker": 2}, {"CPU": 7.0}, 3),
        ({"gpus_per_worker": 0.5}, {"CPU": 16.0, "GPU": 1.0}, 2),
        ({"gpus_per_worker": 0.1}, {"CPU": 16.0, "GPU": 1.0}, 10),
        ({"gpus_per_worker": 1}, {"CPU": 2.0, "GPU": 8.0}, 2),
        ({"concurrent": 1}, {"CPU": 4.0}, 1),
        ({"concurrent": 3}, {"CPU": 4.0}, 3),
        ({"concurrent": 100}, {"CPU": 4.0}, 4),
    ],
)
def test_as_many_trials_run_as_fit_and_as_are_wanted(resources, available, wanted):
    assert concurrency(Resources(**resources), available) == wanted


@pytest.mark.parametrize(
    ("resources", "available", "words"),
    [
        ({"cpus_per_worker": 4}, {"CPU": 2.0}, "4 CPU and there are 2 CPU"),
        ({"gpus_per_worker": 1}, {"CPU": 2.0}, "1 CPU, 1 GPU and there are 2 CPU, 0 GPU"),
        ({"gpus_per_worker": 2, "concurrent": 1}, {"CPU": 2.0, "GPU": 1.0}, "2 GPU and there are 2 CPU, 1 GPU"),
    ],
)
def test_a_trial_that_can_never_be_placed_is_an_error_and_not_a_wait(resources, available, words):
    with pytest.raises(ConfigError, match=words):
        concurrency(Resources(**resources), available)
