"""Checkpoints: all or nothing on disk, no code on the way in."""

import contextlib
import dataclasses
import errno
import pickle
import random

import pytest
import torch

from gcsearch.errors import CheckpointError, is_disk_full
from gcsearch.training import Checkpoint, load_checkpoint
from gcsearch.training.checkpoint import FORMAT, copy_checkpoint


def checkpoint(step=3, value=1.0):
    weights = torch.linspace(-1, 1, 1000) * value
    network = torch.nn.Linear(4, 4)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return Checkpoint(
        fingerprint="f" * 64,
        config={"name": "x", "seed": 3, "nested": {"list": [1, 2.5, None, True, "ü"]}},
        step=step,
        network={"weight": weights, "half": weights.bfloat16()},
        average={"weight": weights / 2},
        optimizer=optimizer.state_dict(),
        results=[{"images": 10, "metrics": {"eval/fid": 0.1 + 0.2}, "identities": {"eval/fid": "metric=fid"}}],
        counters={"train_seconds": 1 / 3},
    )


def assert_equal(first, second):
    for field in dataclasses.fields(Checkpoint):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if field.name in ("network", "average"):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
        elif field.name == "optimizer":
            torch.testing.assert_close(a["state"], b["state"], rtol=0, atol=0)
            assert a["param_groups"] == b["param_groups"]
        else:
            assert a == b


def test_a_checkpoint_is_read_back_to_the_last_bit(tmp_path):
    written = checkpoint()
    written.save(tmp_path / "new" / "folder" / "latest.pt")
    assert_equal(load_checkpoint(tmp_path / "new" / "folder" / "latest.pt"), written)


def test_saving_replaces_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "latest.pt"
    checkpoint(1).save(path)
    checkpoint(2).save(path)
    assert load_checkpoint(path).step == 2
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("torch")])
@pytest.mark.parametrize("after_bytes", [0, 100])
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error, after_bytes):
    path = tmp_path / "latest.pt"
    checkpoint(1).save(path)
    old = path.read_bytes()

    def failing(content, file):
        del content
        file.write(b"x" * after_bytes)
        raise error

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(type(error)):
        checkpoint(2).save(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


class Full:
    """A file on a disk that is full from some byte on."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, content):
        if self.file.tell() + len(content) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(content)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 200, 2000])
def test_a_full_disk_is_said_to_be_full_and_where(tmp_path, monkeypatch, room):
    path = tmp_path / "latest.pt"
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: save(content, Full(file, room)))
    with pytest.raises(OSError, match="No space left on device") as caught:
        checkpoint(2).save(path)
    assert is_disk_full(caught.value)
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    path = tmp_path / "latest.pt"
    existed = []
    monkeypatch.setattr("os.fsync", lambda handle: existed.append(path.exists()))
    checkpoint().save(path)
    assert existed == [False]


def test_others_may_read_a_checkpoint_as_they_may_read_any_new_file(tmp_path):
    checkpoint().save(tmp_path / "latest.pt")
    (tmp_path / "plain").touch()
    assert (tmp_path / "latest.pt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_copy_is_equal_replaces_and_leaves_nothing_else(tmp_path, monkeypatch):
    source, target = tmp_path / "latest.pt", tmp_path / "best.pt"
    checkpoint(1).save(source)
    copy_checkpoint(source, target)
    checkpoint(2).save(source)
    copy_checkpoint(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert sorted(tmp_path.iterdir()) == [target, source]

    def failing(source, target):
        target.write_bytes(source.read_bytes()[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", failing)
    with pytest.raises(OSError, match="No space"):
        copy_checkpoint(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert sorted(tmp_path.iterdir()) == [target, source]


def test_a_missing_checkpoint_is_said_to_be_missing(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pt: no such checkpoint\."):
        load_checkpoint(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
def test_a_truncated_checkpoint_is_refused_in_one_line_that_names_it(tmp_path, share):
    path = tmp_path / "latest.pt"
    checkpoint().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert str(error.value).startswith(f"{path}: is not a readable checkpoint")
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_damage_of_bytes_ends_in_anything_but_a_checkpoint_error(tmp_path):
    path = tmp_path / "latest.pt"
    checkpoint().save(path)
    content = path.read_bytes()
    random_ = random.Random(0)
    for _ in range(300):
        damaged = bytearray(content)
        start = random_.choice([0, 0, len(content) - 2000])
        for _ in range(random_.choice([1, 5, 50])):
            damaged[min(len(content) - 1, start + random_.randrange(2000))] = random_.randrange(256)
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(CheckpointError):
            load_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"format": FORMAT + 1},
        {"format": FORMAT, "step": 1},
        [1, 2],
        "text",
        None,
        {"format": FORMAT, **vars(checkpoint()), "more": 1},
        {"state_dict": {"weight": torch.zeros(2)}},
    ],
    ids=str,
)
def test_a_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "latest.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"latest\.pt: is not a (complete )?checkpoint"):
        load_checkpoint(path)


def test_a_folder_or_text_is_refused(tmp_path):
    (tmp_path / "text.pt").write_text("hello\nworld\n")
    for path in (tmp_path, tmp_path / "text.pt"):
        with pytest.raises(CheckpointError, match="is not a readable checkpoint"):
            load_checkpoint(path)


class Bomb:
    """Unpickling one creates a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_no_code_in_a_checkpoint_is_run(tmp_path, legacy):
    path, target = tmp_path / "latest.pt", tmp_path / "owned"
    content = {"format": FORMAT, **vars(checkpoint()), "counters": Bomb(target)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="is not a readable checkpoint") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    path.write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not target.exists()
