"""The ledger: what is written is on disk, is read back, and adds up to the state of the study."""

import json
import logging
import os
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from gcsearch.errors import StudyError
from gcsearch.ledger import LEDGER_NAME, LedgerWriter, StudyState, read_events, read_state


@pytest.fixture
def path(tmp_path):
    return tmp_path / "studies" / "mine" / LEDGER_NAME


def at(seconds):
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def event(name, seconds=0.0, /, **fields):
    return {"event": name, "time": at(seconds), **fields}


def result(trial, images, fid, seconds=0.0, **metrics):
    identities = {"eval/fid": "metric=fid"}
    return event(
        "result", seconds, trial=trial, images=images, metrics={"eval/fid": fid, **metrics}, identities=identities
    )


# Writing and reading ----------------------------------------------------------------------------------------------


def test_what_is_appended_is_read_back_in_order(path):
    with LedgerWriter(path) as ledger:
        written = [
            ledger.append("study_started", study="mine", objective={"metric": "fid"}),
            ledger.append("result", trial="0000", images=10, metrics={"eval/fid": 0.1 + 0.2, "tiny": 5e-324}),
            ledger.append("note", text="μ ü \n \u2028 \x00 'quoted' \"quoted\"", items=[1, None, True, {"a": []}]),
        ]
    assert read_events(path) == written
    assert [entry["event"] for entry in written] == ["study_started", "result", "note"]
    assert written[2]["items"] == [1, None, True, {"a": []}]


def test_a_ledger_line_is_one_json_object(path):
    with LedgerWriter(path) as ledger:
        ledger.append("note", text="one\ntwo")
        ledger.append("note", text="three")
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert [json.loads(line)["text"] for line in lines] == ["one\ntwo", "three"]


def test_time_is_now_in_utc_and_iso_8601(path):
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    with LedgerWriter(path) as ledger:
        stamp = datetime.fromisoformat(ledger.append("note")["time"])
    assert stamp.utcoffset() == timedelta(0)
    assert before <= stamp <= datetime.now(UTC)


def test_fields_that_are_none_are_left_out_and_false_ones_are_not(path):
    with LedgerWriter(path) as ledger:
        ledger.append("note", reason=None, count=0, text="", flag=False)
    (entry,) = read_events(path)
    assert {key: value for key, value in entry.items() if key != "time"} == {
        "event": "note",
        "count": 0,
        "text": "",
        "flag": False,
    }


def test_an_appended_line_is_visible_and_synced_before_append_returns(path, monkeypatch):
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (sync(handle), synced.append(path.read_bytes().count(b"\n"))))
    with LedgerWriter(path) as ledger:
        for number in range(1, 4):
            ledger.append("note", number=number)
            assert [entry["number"] for entry in read_events(path)] == list(range(1, number + 1))
            assert synced == list(range(1, number + 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused_and_leave_no_trace(path, value):
    with LedgerWriter(path) as ledger:
        ledger.append("note", number=1)
        for fields in ({"metrics": {"eval/fid": value}}, {"number": value}, {"items": [1.0, [value]]}):
            with pytest.raises(ValueError, match="not JSON compliant"):
                ledger.append("result", **fields)
        ledger.append("note", number=2)
    assert [entry["number"] for entry in read_events(path)] == [1, 2]


def test_a_ledger_that_does_not_exist_is_empty(path):
    assert read_events(path) == []
    assert read_state(path).trials == {}
    assert not path.parent.exists()


def test_a_writer_creates_the_folder_and_appends_to_what_is_there(path):
    for number in (1, 2):
        with LedgerWriter(path) as ledger:
            ledger.append("note", number=number)
    assert [entry["number"] for entry in read_events(path)] == [1, 2]


# Damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "torn", [b"{", b'{"event": "note", "ti', b"\x00\x00\x00", b"\xff\xfe", b'{"event":"note","time":"x"}']
)
def test_a_torn_last_line_is_dropped_with_a_warning_and_cut_off_by_the_next_writer(path, torn, caplog):
    with LedgerWriter(path) as ledger:
        ledger.append("note", number=1)
    intact = path.read_bytes()
    path.write_bytes(intact + torn)
    with caplog.at_level(logging.WARNING):
        assert [entry["number"] for entry in read_events(path)] == [1]
    assert f"{path}:2" in caplog.text
    assert "torn" in caplog.text
    assert path.read_bytes() == intact + torn, "a reader changed the file"

    with LedgerWriter(path) as ledger:
        assert path.read_bytes() == intact
        ledger.append("note", number=2)
    caplog.clear()
    assert [entry["number"] for entry in read_events(path)] == [1, 2]
    assert caplog.text == ""


def test_a_file_that_is_only_a_torn_line_becomes_empty(path):
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"event": "stud')
    assert read_events(path) == []
    with LedgerWriter(path) as ledger:
        ledger.append("note", number=1)
    assert [entry["number"] for entry in read_events(path)] == [1]


def test_no_prefix_of_bytes_is_unreadable(path):
    with LedgerWriter(path) as ledger:
        for number in range(3):
            ledger.append("note", number=number, text="ü")
    content = path.read_bytes()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        assert len(read_events(path)) == content[:length].count(b"\n")


BAD = [
    b"",
    b"   ",
    b"{",
    b"null",
    b"3",
    b"[]",
    b'"event"',
    b"{}",
    b'{"event": "note"}',
    b'{"time": "x"}',
    b"\xff",
    b"\x00",
]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_any_other_bad_line_is_an_error_that_names_it(path, bad, number):
    lines = [json.dumps(event("note", index)).encode() for index in range(3)]
    lines[number - 1] = bad
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(StudyError) as error:
        read_events(path)
    assert str(error.value).startswith(f"{path}:{number}: ")
    assert "\n" not in str(error.value)


# One writer -------------------------------------------------------------------------------------------------------

OTHER = """
import sys
from pathlib import Path
from gcsearch.errors import StudyError
from gcsearch.ledger import LedgerWriter
try:
    LedgerWriter(Path(sys.argv[1])).append("intruder")
except StudyError as error:
    print(error)
    sys.exit(7)
"""


DYING = """
import os, sys
from pathlib import Path
from gcsearch.ledger import LedgerWriter
ledger = LedgerWriter(Path(sys.argv[1]))
ledger.append("intruder")
os._exit(0)
"""


def test_a_second_writer_is_refused_in_this_process_and_in_another(path):
    with LedgerWriter(path) as ledger:
        ledger.append("note")
        with pytest.raises(StudyError, match=r"ledger\.jsonl: another process is writing this study\."):
            LedgerWriter(path)
        done = subprocess.run([sys.executable, "-c", OTHER, str(path)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 7, done.stderr
        assert "another process is writing this study" in done.stdout
        ledger.append("note")
    assert [entry["event"] for entry in read_events(path)] == ["note", "note"]


def test_a_refused_writer_does_not_cut_a_line_that_is_being_written(path):
    with LedgerWriter(path) as ledger:
        ledger.append("note")
        with path.open("ab") as file:
            file.write(b'{"event": "half')
        content = path.read_bytes()
        with pytest.raises(StudyError):
            LedgerWriter(path)
        assert path.read_bytes() == content


def test_the_lock_ends_with_the_writer_even_if_it_died(path):
    ledger = LedgerWriter(path)
    ledger.close()
    LedgerWriter(path).close()
    with pytest.raises(RuntimeError), LedgerWriter(path):
        raise RuntimeError
    LedgerWriter(path).close()
    subprocess.run([sys.executable, "-c", DYING, str(path)], check=True, timeout=60)
    LedgerWriter(path).close()
    assert [entry["event"] for entry in read_events(path)] == ["intruder"]


# State ------------------------------------------------------------------------------------------------------------

STUDY = [
    event("study_started", 0, study="mine", study_id="abc"),
    event(
        "trial_started",
        1,
        trial="0000",
        kind="trial",
        params={"a": 1},
        config={"c": 2},
        fingerprint="f",
        recipe="r",
        seed=5,
    ),
    event("samples", 1, trial="0000", images=0, path="samples/0.png"),
    result("0000", 10, 3.0, 2),
    event("trial_started", 3, trial="0001", kind="trial", params={"a": 2}),
    result("0000", 20, 5.0, 4),
    event("trial_ended", 5, trial="0000", state="completed"),
    result("0001", 10, 1.0, 6),
    event("trial_ended", 7, trial="0001", state="stopped", reason="rank 3 of 3"),
    event("trial_started", 8, trial="0002", kind="finalist", params={}),
    event("trial_ended", 9, trial="0002", state="diverged", reason="loss is nan"),
    event("study_ended", 10),
]


def test_the_state_is_the_sum_of_the_events():
    state = StudyState(STUDY)
    assert state.study == STUDY[0]
    assert state.ended
    assert list(state.trials) == ["0000", "0001", "0002"]
    first, second, third = state.trials.values()
    assert (first.kind, first.params, first.config) == ("trial", {"a": 1}, {"c": 2})
    assert (first.fingerprint, first.recipe, first.seed) == ("f", "r", 5)
    assert (first.state, first.reason, first.started, first.ended) == ("completed", None, at(1), at(5))
    assert first.samples == {0: "samples/0.png"}
    assert [(entry.images, entry.metrics["eval/fid"], entry.time) for entry in first.results] == [
        (10, 3.0, at(2)),
        (20, 5.0, at(4)),
    ]
    assert first.results[0].identities == {"eval/fid": "metric=fid"}
    assert (second.state, second.reason, second.images) == ("stopped", "rank 3 of 3", 10)
    assert (third.kind, third.state, third.images) == ("finalist", "diverged", 0)


def test_the_state_of_a_file_is_that_of_its_events(path):
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in STUDY))
    state = read_state(path)
    assert state.trials == StudyState(STUDY).trials
    assert state.ended


def test_last_and_best_values_follow_the_direction():
    trial = StudyState([*STUDY[:6], result("0000", 30, 4.0, 7, accuracy=0.5)]).trials["0000"]
    assert trial.value("eval/fid") == trial.value("eval/fid", "last") == 4.0
    assert trial.value("eval/fid", "best") == 3.0
    assert trial.value("eval/fid", "best", lower_is_better=False) == 5.0
    assert trial.value("accuracy") == 0.5
    assert trial.value("eval/kid") is None
    assert (trial.value_at("eval/fid", 20), trial.value_at("eval/fid", 15), trial.value_at("eval/kid", 20)) == (
        5.0,
        None,
        None,
    )


def test_a_repeated_or_earlier_result_changes_nothing():
    state = StudyState([*STUDY[:6], result("0000", 20, 99.0, 6), result("0000", 10, 99.0, 7)])
    assert [(entry.images, entry.metrics["eval/fid"]) for entry in state.trials["0000"].results] == [
        (10, 3.0),
        (20, 5.0),
    ]


@pytest.mark.parametrize("state", ["failed", "interrupted", "diverged"])
def test_a_restarted_trial_runs_again_and_keeps_its_results_and_first_start(state):
    events = [
        *STUDY[:6],
        event("trial_ended", 6, trial="0000", state=state, reason="why"),
        event("trial_started", 50, trial="0000"),
    ]
    trial = StudyState(events).trials["0000"]
    assert (trial.state, trial.reason, trial.ended, trial.started) == ("running", None, None, at(1))
    assert (trial.params, trial.seed, trial.images) == ({"a": 1}, 5, 20)
    ended = StudyState([*events, event("trial_ended", 60, trial="0000", state="completed")]).trials["0000"]
    assert (ended.state, ended.reason, ended.ended) == ("completed", None, at(60))


def scored(**trials):
    events = [event("study_started")]
    for trial, (state, *values) in trials.items():
        events.append(event("trial_started", trial=trial))
        events += [result(trial, 10 * (index + 1), value) for index, value in enumerate(values)]
        if state:
            events.append(event("trial_ended", trial=trial, state=state))
    return StudyState(events)


def test_only_completed_trials_are_ranked():
    state = scored(
        a=("completed", 9.0, 3.0),
        b=("stopped", 1.0),
        c=("completed", 2.0, 4.0),
        d=("diverged", 0.1),
        e=("failed", 0.1),
        f=("interrupted", 0.1),
        g=(None, 0.1),
        h=("completed",),
        i=("completed", 0.5, 9.0),
    )

    def names(**options):
        return "".join(trial.trial for trial in state.ranking("eval/fid", **options))

    assert names(lower_is_better=True) == "aci"
    assert names(lower_is_better=True, use="best") == "ica"
    assert names(lower_is_better=False) == "ica"
    assert names(lower_is_better=False, use="best") == "aic"
    assert state.ranking("eval/kid", lower_is_better=True) == []


def test_equal_scores_keep_the_order_of_the_trials():
    state = scored(b=("completed", 1.0), a=("completed", 1.0), c=("completed", 1.0))
    for lower_is_better in (True, False):
        ranking = state.ranking("eval/fid", lower_is_better=lower_is_better)
        assert [trial.trial for trial in ranking] == ["b", "a", "c"]


def test_trials_are_selected_by_state_in_order():
    state = scored(b=("completed", 1.0), a=("failed", 1.0), c=(None, 1.0), d=("completed", 2.0))
    assert [trial.trial for trial in state.of_state("completed")] == ["b", "d"]
    assert [trial.trial for trial in state.of_state("completed", "running")] == ["b", "c", "d"]


def test_earlier_wall_time_adds_up_the_runs_before_the_present_one_also_killed_ones():
    events = [
        event("study_started", 0, study="mine"),
        event("trial_started", 5, trial="0000"),
        result("0000", 10, 1.0, 30),  # killed here
        event("study_started", 1000, study="other"),
        event("trial_started", 1001, trial="0000"),
        event("study_interrupted", 1100),
        event("study_started", 5000, study="mine"),
        result("0000", 20, 1.0, 5050),
    ]
    walls = [StudyState(events[:length]).earlier_wall_seconds for length in range(len(events) + 1)]
    assert walls == [0, 0, 0, 0, 30, 30, 30, 130, 130]
    state = StudyState(events)
    assert state.study == events[0], "the first start describes the study"
    assert not state.ended


def test_a_study_that_goes_on_has_not_ended():
    assert StudyState(STUDY).ended
    assert not StudyState([*STUDY, event("study_started", 20)]).ended


def test_an_event_of_an_unknown_trial_is_an_error():
    with pytest.raises(StudyError, match="'result' of trial 0007, which was never started"):
        StudyState([event("study_started"), result("0007", 10, 1.0)])


def test_unknown_events_are_ignored():
    before = StudyState(STUDY)
    after = StudyState([*STUDY, event("invented", 11, anything=1), event("invented", 12, trial="0000", images=99)])
    assert after.trials == before.trials


def random_ledger(seed):
    """A valid ledger with several runs, restarts, repeated results and kills at any time."""
    random_ = random.Random(seed)
    clock, running, images, count = 0.0, set(), {}, 0
    events = [event("study_started", 0, study="mine")]
    for _ in range(200):
        clock += random_.random() * 10
        move = random_.choice(["start", "start", "result", "result", "result", "samples", "end", "kill", "note"])
        trial = random_.choice(sorted(running)) if running else None
        if move == "start":
            trial = f"{count:04d}"
            count += 1
            running.add(trial)
            images[trial] = 0
            events.append(event("trial_started", clock, trial=trial, kind="trial", params={"a": count}))
        elif move == "kill":
            events.append(event("study_started", clock + 100, study="mine"))
            clock += 100
            events += [event("trial_started", clock, trial=name) for name in sorted(running)]
        elif move == "note":
            events.append(event("note", clock))
        elif trial and move == "result":
            images[trial] = max(0, images[trial] + random_.choice([10, 10, 0]))
            events.append(result(trial, images[trial] or 10, random_.random(), clock))
        elif trial and move == "samples":
            events.append(event("samples", clock, trial=trial, images=images[trial], path="x.png"))
        elif trial and move == "end":
            running.discard(trial)
            state = random_.choice(["completed", "stopped", "diverged", "failed", "interrupted"])
            events.append(event("trial_ended", clock, trial=trial, state=state))
    return events


@pytest.mark.parametrize("seed", range(5))
def test_every_prefix_of_a_ledger_is_a_state_and_one_event_more_is_the_next_one(seed):
    events = random_ledger(seed)
    growing = StudyState()
    for length in range(len(events) + 1):
        state = StudyState(events[:length])
        assert vars(state) == vars(growing)
        assert state.earlier_wall_seconds >= 0
        for trial in state.trials.values():
            counts = [entry.images for entry in trial.results]
            assert counts == sorted(set(counts))
            assert (trial.ended is None) == (trial.state == "running")
        if length < len(events):
            growing.apply(events[length])
