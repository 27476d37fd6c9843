"""The driver without Ray: whole studies of synthetic curves, killed, resumed, extended and watched."""

from __future__ import annotations

import dataclasses
import json

import pytest

from gcsearch.ledger import LEDGER_NAME, LedgerWriter, StudyState, read_events
from gcsearch.tuning.search_driver import SearchDriver
from gcsearch.tuning.study import run_study

pytestmark = pytest.mark.usefixtures("quick_disk")
RUNGS = (800, 1600, 2400, 3200)


def test_a_study_spends_its_budget_and_ends_every_trial(run, check_ledger, study, tmp_path):
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


def test_the_same_seed_gives_the_same_study_and_another_seed_another(load, sections, run, outcome, tmp_path):
    first = outcome(run(load(), tmp_path / "a"))
    assert outcome(run(load(), tmp_path / "b")) == first
    other = load(search={**sections["search"], "seed": 5})
    assert outcome(run(other, tmp_path / "c")) != first


@pytest.mark.parametrize(
    "checkpoint", [pytest.param("as the ledger", marks=pytest.mark.slow), "ahead of the ledger", "lost"]
)
def test_killed_at_any_event_and_resumed_it_is_the_study_that_was_never_killed(
    run, outcome, check_ledger, lines_of, study, tmp_path, checkpoint
):
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


def test_killed_again_and_again_it_is_the_study_that_was_never_killed(
    run, outcome, check_ledger, killed, study, tmp_path
):
    whole = outcome(run(study, tmp_path / "whole"))
    checkpoints = {}
    for _ in range(200):
        try:
            resumed = run(study, tmp_path / "often", checkpoints, stop_after=5)
        except killed:
            continue
        break
    assert outcome(resumed) == whole
    check_ledger(tmp_path / "often")


def test_several_at_a_time_and_killed_anywhere_every_trial_ends_once(run, check_ledger, killed, study, tmp_path):
    for stop_after in range(0, 60, 7):
        directory, checkpoints = tmp_path / str(stop_after), {}
        with pytest.raises(killed):
            run(study, directory, checkpoints, concurrent=3, stop_after=stop_after)
        state = run(study, directory, checkpoints, concurrent=3)
        assert check_ledger(directory) == set(state.trials)
        assert len(state.trials) == 9


def test_an_extension_adds_exactly_the_difference(load, run, outcome, tmp_path):
    small = load(budget={"trials": 5})
    first = outcome(run(small, tmp_path / "a"))
    assert len(first) == 5
    extended = outcome(run(load(), tmp_path / "a"))
    assert len(extended) == 9
    assert {trial: extended[trial] for trial in first} == first
    assert extended == outcome(run(load(), tmp_path / "b"))
    assert outcome(run(small, tmp_path / "a")) == extended  # less than there is: nothing to do


def test_start_from_comes_first_and_what_it_leaves_out_is_drawn(load, run, tmp_path):
    start = [{"coupling.mu": 0.25, "timesteps": "exponential"}, {"coupling.mu": 0.75}]
    study = load(search={"sampler": "random", "start_from": start})
    trials = run(study, tmp_path).trials
    assert trials["0000"].params["coupling.mu"] == 0.25
    assert trials["0000"].params["timesteps"] == "exponential"
    assert 40 < trials["0000"].params["timesteps.s1"] <= 160
    assert trials["0001"].params["coupling.mu"] == 0.75
    assert trials["0002"].params["coupling.mu"] not in (0.25, 0.75)


class Watcher:
    def __init__(self):
        self.events, self.progress = [], []

    def on_event(self, event):
        self.events.append(event)

    def on_progress(self, trial, images, images_per_second):
        self.progress.append((trial, images, images_per_second))


def test_observers_get_every_event_once_and_after_it_is_on_disk(run, lines_of, study, tmp_path):
    class Careful(Watcher):
        def on_event(self, event):
            assert json.loads(lines_of(tmp_path)[-1]) == event
            super().on_event(event)

    watcher = Careful()
    run(study, tmp_path, observers=[watcher])
    assert watcher.events == read_events(tmp_path / LEDGER_NAME)
    assert watcher.progress
    assert all(images % 800 == 799 for _, images, _ in watcher.progress)


def test_run_study_tells_observers_of_earlier_runs_first_and_needs_no_cluster_when_all_is_done(
    run, outcome, study, tmp_path
):
    run(study, tmp_path / study.name)
    watcher = Watcher()
    state = run_study(study, tmp_path, observers=[watcher])
    assert watcher.events == read_events(tmp_path / study.name / LEDGER_NAME)
    assert [event["event"] for event in watcher.events[-2:]] == ["study_started", "study_ended"]
    assert outcome(state) == outcome(StudyState(watcher.events))


def test_a_study_whose_last_decision_was_lost_is_settled_without_a_cluster(run, outcome, lines_of, study, tmp_path):
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


def test_stopping_compares_only_inside_the_key_it_is_told(load, sections, run, tmp_path):
    study = load(stopping=sections["stopping"] | {"within": "auto"})
    assert study.within == "timesteps"
    run(study, tmp_path)
    with LedgerWriter(tmp_path / LEDGER_NAME) as ledger:
        driver = SearchDriver(study, tmp_path, ledger, StudyState(read_events(tmp_path / LEDGER_NAME)))
        for record in driver.state.trials.values():
            others = {trial for scores in driver.engine.table(driver.state, record).values() for trial in scores}
            kinds = {driver.state.trials[trial].params["timesteps"] for trial in others}
            assert kinds <= {record.params["timesteps"]}
