"""Studies on a filesystem elsewhere: what is sent is complete and consistent, and nobody overwrites anybody."""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gcsearch.errors import StudyError
from gcsearch.ledger import LEDGER_NAME, LedgerWriter, read_events
from gcsearch.storage import Mirror, RemoteStudies, is_uri
from gcsearch.storage import mirror as mirror_module
from gcsearch.storage.remote import LOCK_NAME

NAME = "small"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "bucket" / "studies"


@pytest.fixture
def machine(tmp_path: Path, there: Path):
    """Makes the studies as a machine of the given name sees them."""
    return lambda name="one": RemoteStudies(there.as_uri(), cache=tmp_path / name)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "SEND_EVERY_S", 0.01)
    monkeypatch.setattr(mirror_module, "LOOK_EVERY_S", 0.05)


def write_study(remote: RemoteStudies, *, images: int = 100, state: str | None = None) -> None:
    """A study with one trial; its checkpoint says how many images it has seen."""
    folder = remote.local / NAME
    with LedgerWriter(folder / LEDGER_NAME) as ledger:
        if not read_events(folder / LEDGER_NAME):
            ledger.append("study_started", study=NAME)
            ledger.append("trial_started", trial="0000")
        ledger.append("result", trial="0000", images=images, metrics={"eval/fid": 1.0})
        if state:
            ledger.append("trial_ended", trial="0000", state=state)
    checkpoints = folder / "trials" / "0000" / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    (checkpoints / "latest.pt").write_text(str(images))
    (folder / "study.yaml").write_text("name: small\n")


def wait_for(condition) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 5 s")


def test_what_a_uri_is() -> None:
    assert is_uri("s3://bucket/studies")
    assert not is_uri("studies")
    assert not is_uri("/data/studies")


def test_another_machine_gets_the_whole_study(machine, there: Path) -> None:
    one, two = machine(), machine("two")
    with Mirror(one, NAME).running():
        write_study(one)
    assert (there / NAME / LEDGER_NAME).read_bytes() == (one.local / NAME / LEDGER_NAME).read_bytes()
    assert not (there / NAME / LOCK_NAME).exists()
    assert two.names() == [NAME]
    folder = two.pull(NAME)
    mine = {path.relative_to(one.local): path.read_bytes() for path in one.local.rglob("[!.]*") if path.is_file()}
    theirs = {path.relative_to(two.local): path.read_bytes() for path in two.local.rglob("[!.]*") if path.is_file()}
    assert theirs == mine
    assert folder == two.local / NAME


def test_files_are_sent_while_the_study_runs_and_the_ledger_last(machine, there: Path) -> None:
    one = machine()
    mirror = Mirror(one, NAME)
    order = []
    send = one.send
    one.send = lambda path, content=None: (order.append(path), send(path, content))[1]
    with mirror.running():
        write_study(one)
        mirror.on_event({})
        wait_for((there / NAME / LEDGER_NAME).exists)
        assert (there / NAME / LOCK_NAME).exists()
    sent = [path for path in order if not path.endswith(LOCK_NAME)]
    assert sent[-1] == f"{NAME}/{LEDGER_NAME}"
    assert f"{NAME}/trials/0000/checkpoints/latest.pt" in sent[:-1]


def test_only_changes_are_sent_and_fetched(machine) -> None:
    one, two = machine(), machine("two")
    with Mirror(one, NAME).running():
        write_study(one)
    two.pull(NAME)
    sent, fetched = [], []
    send, fetch = one.send, two.fetch
    one.send = lambda path, content=None: (sent.append(path), send(path, content))[1]
    two.fetch = lambda path: (fetched.append(path), fetch(path))[1]
    with Mirror(one, NAME).running():
        (one.local / NAME / "study.yaml").write_text("name: changed\n")
    assert {path for path in sent if "checkpoints" in path or path.endswith("yaml")} == {f"{NAME}/study.yaml"}
    two.pull(NAME)
    assert fetched == [f"{NAME}/study.yaml"]
    assert (two.local / NAME / "study.yaml").read_text() == "name: changed\n"


def test_checkpoints_of_ended_trials_are_fetched_on_demand(machine) -> None:
    one, two = machine(), machine("two")
    with Mirror(one, NAME).running():
        write_study(one, state="completed")
    checkpoint = two.pull(NAME) / "trials" / "0000" / "checkpoints" / "latest.pt"
    assert not checkpoint.exists()
    two.pull(NAME, checkpoints=True)
    assert checkpoint.read_text() == "100"


def test_a_study_goes_on_elsewhere_and_comes_back(machine) -> None:
    one, two = machine(), machine("two")
    with Mirror(one, NAME).running():
        write_study(one)
    with Mirror(two, NAME).running():
        write_study(two, images=200)
    folder = one.pull(NAME)
    assert [event.get("images") for event in read_events(folder / LEDGER_NAME)] == [None, None, 100, 200]
    assert (folder / "trials" / "0000" / "checkpoints" / "latest.pt").read_text() == "200"


def test_what_a_killed_driver_had_not_sent_is_kept_and_sent_later(machine, there: Path) -> None:
    one = machine()
    with Mirror(one, NAME).running():
        write_study(one)
    write_study(one, images=200)  # and the process is killed
    one.pull(NAME)
    assert (one.local / NAME / "trials" / "0000" / "checkpoints" / "latest.pt").read_text() == "200"
    with Mirror(one, NAME).running():
        pass
    assert len(read_events(there / NAME / LEDGER_NAME)) == 4
    assert (there / NAME / "trials" / "0000" / "checkpoints" / "latest.pt").read_text() == "200"


def test_two_continuations_of_one_state_are_refused(machine) -> None:
    one, two = machine(), machine("two")
    with Mirror(one, NAME).running():
        write_study(one)
    with Mirror(two, NAME).running():
        write_study(two, images=200)
    write_study(one, images=300)
    with pytest.raises(StudyError, match="two machines have continued this study"):
        one.pull(NAME)


def test_a_second_driver_is_refused(machine) -> None:
    one, two = machine(), machine("two")
    with (
        Mirror(one, NAME).running(),
        pytest.raises(StudyError, match=f"process {os.getpid()} on .* is writing this study"),
        Mirror(two, NAME).running(),
    ):
        pass


@pytest.mark.parametrize(
    "holder",
    [
        {"host": "elsewhere", "pid": 1, "time": (datetime.now(UTC) - timedelta(hours=1)).isoformat()},
        {"host": os.uname().nodename, "pid": 2**22 + 1, "time": datetime.now(UTC).isoformat()},
    ],
    ids=["silent", "dead"],
)
def test_the_lock_of_a_dead_driver_is_taken(machine, there: Path, holder: dict[str, object]) -> None:
    (there / NAME).mkdir(parents=True)
    (there / NAME / LOCK_NAME).write_text(json.dumps({"owner": "x"} | holder))
    one = machine()
    with Mirror(one, NAME).running():
        write_study(one)
    assert (there / NAME / LEDGER_NAME).exists()


def test_a_driver_that_was_taken_over_stops_and_sends_nothing(machine, there: Path, monkeypatch) -> None:
    monkeypatch.setattr(mirror_module, "HEARTBEAT_S", 0.0)
    one = machine()
    mirror = Mirror(one, NAME)
    with mirror.running():
        holder = {"owner": "other", "host": "elsewhere", "pid": 7, "time": datetime.now(UTC).isoformat()}
        (there / NAME / LOCK_NAME).write_text(json.dumps(holder))
        wait_for(lambda: not mirror._thread.is_alive())
        write_study(one)
        with pytest.raises(StudyError, match="process 7 on elsewhere has taken this study over"):
            mirror.on_event({})
    assert not (there / NAME / LEDGER_NAME).exists()
    assert json.loads((there / NAME / LOCK_NAME).read_text())["owner"] == "other"


def test_a_filesystem_that_is_away_stops_nothing_and_gets_all_later(machine, there: Path) -> None:
    one = machine()
    is_away, failures = threading.Event(), []
    send = one.send

    def unsteady(path: str, content: bytes | None = None) -> None:
        if is_away.is_set():
            failures.append(path)
            raise OSError("connection refused")
        send(path, content)

    one.send = unsteady
    mirror = Mirror(one, NAME)
    with mirror.running():
        is_away.set()
        write_study(one)
        mirror.on_event({})
        wait_for(lambda: failures)
        is_away.clear()
    assert read_events(there / NAME / LEDGER_NAME)


def test_what_cannot_be_sent_at_the_end_is_an_error_that_says_where_it_is(machine, monkeypatch) -> None:
    monkeypatch.setattr(mirror_module.time, "sleep", lambda _: None)
    one = machine()
    mirror = Mirror(one, NAME)

    def fail(path: str, content: bytes | None = None) -> None:
        raise OSError("connection refused")

    def run() -> None:
        with mirror.running():
            one.send = fail
            write_study(one)

    with pytest.raises(StudyError, match=r"could not be sent \(connection refused\)") as caught:
        run()
    assert str(one.local / NAME) in str(caught.value)


@pytest.mark.parametrize(("uri", "text"), [("ftp://host/studies", "Unrecognized filesystem type"), ("://x", "must be")])
def test_a_filesystem_that_does_not_exist(uri: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=text):
        RemoteStudies(uri, cache=tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    remote = RemoteStudies((tmp_path / "file" / "studies").as_uri(), cache=tmp_path / "cache")
    with pytest.raises(StudyError, match=r"--studies file:.*/file/studies"), Mirror(remote, NAME).running():
        pass
