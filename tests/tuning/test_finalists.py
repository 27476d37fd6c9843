"""Finalists without Ray: who is trained again, with what, and that a kill or an extension changes nothing."""

from __future__ import annotations

import json

import pytest

from gcsearch.errors import ConfigError, StudyError
from gcsearch.ledger import ENDED, LEDGER_NAME, LedgerWriter, StudyState, TrialRecord, read_events
from gcsearch.selection import select
from gcsearch.tuning import finalists
from gcsearch.tuning.search_driver import SearchDriver

pytestmark = pytest.mark.usefixtures("quick_disk")
FINALISTS = {"top": 2, "seeds": [1, 2, 5]}


@pytest.fixture
def final(load):
    return load(finalists=FINALISTS)


def finalists_of(state):
    return {trial: record for trial, record in state.trials.items() if record.kind == "finalist"}


def test_the_best_full_length_recipes_are_trained_again_on_every_seed(final, run, check_ledger, tmp_path):
    state = run(final, tmp_path)
    ranking = [record.trial for record in state.ranking("eval/fid", lower_is_better=True)]
    found = finalists_of(state)
    assert list(found) == [f"{trial}-s{seed}" for seed in (1, 2, 5) for trial in ranking[:2]]
    assert check_ledger(tmp_path) == set(state.trials)
    for trial, record in found.items():
        searched = state.trials[record.candidate]
        assert trial == f"{searched.trial}-s{record.seed}"
        assert record.params == searched.params
        assert record.config["evaluation"] == searched.config["evaluation"] | {"num_samples": 10_000}
        assert [result.images for result in record.results] == [800, 1600, 2400, 3200]
        assert {key for key in record.config if record.config[key] != searched.config[key]} == {"seed", "evaluation"}
        assert len({found[f"{record.candidate}-s{seed}"].recipe for seed in (1, 2, 5)}) == 1
        assert (tmp_path / "trials" / trial / "config.yaml").exists()


def test_finalists_change_nothing_of_the_search_and_an_extension_goes_on_where_it_was(load, run, outcome, tmp_path):
    plain = outcome(run(load(), tmp_path / "plain"))
    small = load(budget={"trials": 6}, finalists=FINALISTS)
    first = run(small, tmp_path / "a")
    before = set(finalists_of(first))
    assert len(before) == 6
    extended = run(load(finalists=FINALISTS), tmp_path / "a")
    searched = {trial: value for trial, value in outcome(extended).items() if trial in plain}
    assert searched == plain
    assert before <= set(finalists_of(extended))
    assert {record.state for record in finalists_of(extended).values()} == {"completed"}
    best = [record.trial for record in extended.ranking("eval/fid", lower_is_better=True)][:2]
    assert {record.candidate for record in finalists_of(extended).values()} >= set(best)


def test_added_to_a_study_that_has_ended_they_are_all_that_is_trained(load, final, run, outcome, tmp_path):
    whole = outcome(run(final, tmp_path / "whole"))
    run(load(), tmp_path / "later")
    assert outcome(run(final, tmp_path / "later")) == whole


@pytest.mark.parametrize("variant", ["stopping", "promotion"])
def test_killed_at_any_event_it_is_the_study_that_was_never_killed(
    load, sections, run, outcome, check_ledger, lines_of, tmp_path, variant
):
    study = load(finalists=FINALISTS, stopping=sections["stopping"] | {"variant": variant})
    state = run(study, tmp_path / "whole")
    whole, winner = outcome(state), select(state).to_dict()
    lines = lines_of(tmp_path / "whole")
    begin = next(number for number, line in enumerate(lines) if b"finalists_started" in line)
    for count in range(begin - 4, len(lines) + 1, 5):
        directory = tmp_path / f"killed-{count}"
        directory.mkdir()
        (directory / LEDGER_NAME).write_bytes(b"".join(lines[:count]))
        known = StudyState([json.loads(line) for line in lines[:count]])
        checkpoints = {trial: record.images for trial, record in known.trials.items() if record.images}
        resumed = run(study, directory, checkpoints)
        assert outcome(resumed) == whole, f"killed after line {count}"
        assert select(resumed).to_dict() == winner
        assert read_events(directory / LEDGER_NAME)[-1]["finalists"] == winner
        check_ledger(directory)


@pytest.mark.parametrize(("every", "rungs"), [(800, 4), (400, 8), (300, 6), (100, 8), (90, 8)])
@pytest.mark.parametrize("use", ["last", "best"])
def test_a_finalist_is_judged_at_few_rungs_of_the_search_unless_the_best_counts(load, every, rungs, use):
    objective = {"metric": "fid", "goal": "minimize", "use": use}
    stopping = {"name": "none"}
    study = load(
        objective=objective, stopping=stopping, finalists=FINALISTS, assignments=[f"evaluation.every_images={every}"]
    )
    searched = study.experiment_of({"coupling.mu": 0.5, "timesteps": "fixed", "timesteps.num_levels": 10})
    record = TrialRecord(trial="0000", config=searched.to_dict())
    final = finalists.experiment_of(record, 1, study.finalists, study.objective)
    assert set(final.rungs) <= set(searched.rungs)
    assert final.rungs[-1] == 3200
    assert final.rungs == searched.rungs if use == "best" else len(final.rungs) == rungs


def test_what_was_begun_with_one_evaluation_at_the_end_goes_on_so_and_the_winner_is_the_same(
    final, run, outcome, monkeypatch, lines_of, tmp_path
):
    """As studies were before finalists were judged at rungs: their checkpoints must still fit."""
    whole = run(final, tmp_path / "new")
    with monkeypatch.context() as patch:
        patch.setattr(finalists, "CURVE_POINTS", 1)
        run(final, tmp_path / "old")
    lines = lines_of(tmp_path / "old")
    begun = [number for number, line in enumerate(lines) if b"trial_started" in line and b"-s" in line]
    directory = tmp_path / "resumed"
    directory.mkdir()
    (directory / LEDGER_NAME).write_bytes(b"".join(lines[: begun[1] + 1]))  # one has ended, one has begun
    resumed = finalists_of(run(final, directory))
    counts = [len(record.results) for record in resumed.values()]
    assert counts[:2] == [1, 1]
    assert set(counts[2:]) == {4}
    first, second = list(resumed.values())[:2]
    assert second.fingerprint == json.loads(lines[begun[1]])["fingerprint"]
    assert first.fingerprint != finalists_of(whole)[first.trial].fingerprint
    assert select(StudyState(read_events(directory / LEDGER_NAME))).winner.candidate == select(whole).winner.candidate


def test_several_at_a_time_wait_for_the_search_to_end(final, run, check_ledger, tmp_path):
    state = run(final, tmp_path, concurrent=3)
    events = read_events(tmp_path / LEDGER_NAME)
    begin = next(number for number, event in enumerate(events) if event["event"] == "finalists_started")
    searched = {trial for trial, record in state.trials.items() if record.kind == "trial"}
    assert not any(event.get("trial") in searched and event["event"] == "result" for event in events[begin:])
    kinds = [event["event"] for event in events[begin:]]
    assert kinds.count("trial_started") == 6
    assert kinds[: kinds.index("result")].count("trial_started") == 3  # at a time
    assert check_ledger(tmp_path) == set(state.trials)


def test_equal_recipes_count_once_and_a_finalist_is_never_stopped(load, run, tmp_path):
    same = [{"coupling.mu": 0.3, "timesteps": "fixed", "timesteps.num_levels": 10}] * 2
    study = load(search={"sampler": "random", "start_from": same}, stopping="none", finalists=FINALISTS)
    state = run(study, tmp_path)
    assert state.trials["0000"].recipe == state.trials["0001"].recipe
    assert "0000" in {record.candidate for record in finalists_of(state).values()}
    assert "0001" not in {record.candidate for record in finalists_of(state).values()}
    assert all(record.state in ENDED for record in state.trials.values())


def test_scores_that_could_not_be_compared_are_refused(load, final, run, tmp_path):
    run(final, tmp_path)
    other = load(finalists=FINALISTS | {"num_samples": 5000})
    with (
        LedgerWriter(tmp_path / LEDGER_NAME) as ledger,
        pytest.raises(StudyError, match=r"num_samples must stay 10000, .* got 5000"),
    ):
        SearchDriver(other, tmp_path, ledger, StudyState(read_events(tmp_path / LEDGER_NAME)))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"seeds": [0, 1]}, r"study.yaml:\d+: finalists.seeds must not contain the seed of the experiment"),
        ({"seeds": [1]}, r"finalists.seeds must be at least two different numbers"),
        ({"seeds": [2, 2]}, r"finalists.seeds must be at least two different numbers"),
        ({"top": 0}, r"finalists.top must be at least 1, got 0"),
        ({"num_samples": 4}, r"finalists.num_samples must be at least 16"),
        ({"seed": [1, 2]}, r"has no key 'seed'. Did you mean 'seeds'"),
    ],
)
def test_mistakes_are_named_with_file_and_line(load, section, message):
    with pytest.raises(ConfigError, match=message):
        load(finalists=section)
