"""The ledger: what is written is on disk and is read back, by one writer, whatever was torn."""

import json
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from gcsearch.errors import StudyError
from gcsearch.ledger import LEDGER_NAME, LedgerWriter, read_events, read_state


@pytest.fixture
def path(tmp_path):
    return tmp_path / "studies" / "mine" / LEDGER_NAME


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
    lines = [
        json.dumps({"event": "note", "time": f"2026-01-01T00:00:0{index}.000+00:00"}).encode() for index in range(3)
    ]
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


FULL_DISK = """\
import resource, sys
from pathlib import Path
from gcsearch.errors import StudyError
from gcsearch.ledger import LedgerWriter

path = Path(sys.argv[1])
with LedgerWriter(path) as ledger:
    ledger.append("note", text="kept")
    size = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
    for _ in range(2):
        try:
            ledger.append("note", text="does not fit, not even the half of it")
        except StudyError as error:
            print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    ledger.append("note", text="after space was made")
"""


def test_a_full_disk_is_said_and_leaves_no_torn_line(path):
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == 2
    assert all("the disk is full. Nothing that was recorded is lost" in line for line in said)
    assert [event["text"] for event in read_events(path)] == ["kept", "after space was made"]


def test_a_writer_that_wrote_nothing_leaves_nothing(tmp_path):
    fresh = tmp_path / "fresh" / LEDGER_NAME
    with LedgerWriter(fresh):
        assert fresh.exists()  # the lock is on it
    assert not fresh.parent.exists()
    (tmp_path / "kept").mkdir()
    with LedgerWriter(tmp_path / "kept" / LEDGER_NAME):
        pass
    assert list((tmp_path / "kept").iterdir()) == []
    with LedgerWriter(fresh) as ledger:
        (fresh.parent / "samples").touch()
        ledger.close()
    assert list(fresh.parent.iterdir()) == [fresh.parent / "samples"]
