"""Downloads from a server on this machine: resumed, checked, and clear when there is no network."""

from __future__ import annotations

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gcsearch.data import cifar10, fashion_mnist
from gcsearch.data.cifar10 import CIFAR10
from gcsearch.data.download import download
from gcsearch.data.fashion_mnist import FashionMNIST
from gcsearch.data.image_set import prepare
from gcsearch.errors import DataError

CONTENT = bytes(range(256)) * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server():
    """A server with settings: whether it knows ranges, and after how many bytes it hangs up."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            server.ranges.append(asked)
            if self.path == "/missing":
                self.send_error(404)
                return
            if self.path == "/silent":
                server.released.wait(30)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.knows_ranges else 0
            if start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206 if asked and server.knows_ranges else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start : start + server.hangs_up_after])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.knows_ranges, server.hangs_up_after, server.ranges = True, len(CONTENT), []
    server.released = threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


def test_file_arrives_and_progress_is_told(server, tmp_path):
    told = []
    path = download(f"{server.url}/x", tmp_path / "x", md5=MD5, progress=lambda *values: told.append(values))
    assert path.read_bytes() == CONTENT
    assert told[-1] == ("downloading x", len(CONTENT), len(CONTENT))
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_file_that_is_there_is_not_fetched_again(server, tmp_path):
    (tmp_path / "x").write_bytes(CONTENT)
    download(f"{server.url}/x", tmp_path / "x", md5=MD5)
    assert server.ranges == []
    (tmp_path / "x").write_bytes(b"damaged")
    assert download(f"{server.url}/x", tmp_path / "x", md5=MD5).read_bytes() == CONTENT


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_interrupted_download_goes_on(server, tmp_path, knows_ranges):
    server.hangs_up_after = 400_000
    with pytest.raises(DataError, match="run the same command to go on"):
        download(f"{server.url}/x", tmp_path / "x", md5=MD5)
    assert not (tmp_path / "x").exists()
    server.hangs_up_after, server.knows_ranges = len(CONTENT), knows_ranges
    assert download(f"{server.url}/x", tmp_path / "x", md5=MD5).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=400000-"]


def test_download_that_was_complete_but_for_its_name_is_kept(server, tmp_path):
    (tmp_path / "x.part").write_bytes(CONTENT)
    assert download(f"{server.url}/x", tmp_path / "x", md5=MD5).read_bytes() == CONTENT


def test_wrong_checksum_is_refused_and_the_next_try_is_fresh(server, tmp_path):
    (tmp_path / "x.part").write_bytes(b"something else")
    with pytest.raises(DataError, match=f"must have the md5 {MD5}, got"):
        download(f"{server.url}/x", tmp_path / "x", md5=MD5)
    assert list(tmp_path.iterdir()) == []
    assert download(f"{server.url}/x", tmp_path / "x", md5=MD5).read_bytes() == CONTENT


@pytest.mark.parametrize("path", ["missing", "silent"])
def test_server_that_does_not_answer_is_an_error_within_the_timeout(server, tmp_path, path):
    started = time.monotonic()
    with pytest.raises(DataError, match=f"{path}: could not be fetched"):
        download(f"{server.url}/{path}", tmp_path / "x", md5=MD5, timeout_s=0.2)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("dataset", "module", "file"),
    [
        (CIFAR10(), cifar10, "cifar-10-binary.tar.gz"),
        (FashionMNIST(), fashion_mnist, "train-images-idx3-ubyte.gz"),
    ],
)
def test_without_a_network_the_user_learns_which_file_to_bring(dataset, module, file, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "URL", "http://127.0.0.1:9/nobody")  # nobody listens there
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "none")
    with pytest.raises(DataError, match="could not be fetched") as caught:
        prepare(dataset)
    assert file in str(caught.value)
    assert f"gcsearch data prepare {dataset.name} --from PATH" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prepare_downloads_what_it_can(server, monkeypatch, tmp_path, make, store):
    """The whole way from a server to the store, with an archive of the right form."""
    archive = make.write_tar(tmp_path / "c.tar.gz", make.cifar_batches(make.pixels(10, 3, 32), is_binary=True))
    content = archive.read_bytes()
    monkeypatch.setitem(globals(), "CONTENT", content)
    server.hangs_up_after = len(content)
    monkeypatch.setattr(cifar10, "URL", f"{server.url}/cifar-10-binary.tar.gz")
    monkeypatch.setitem(cifar10.MD5, "cifar-10-binary.tar.gz", hashlib.md5(content).hexdigest())
    stored = prepare(CIFAR10()).stored
    assert stored.metadata.count == 10
    assert stored.metadata.verification == "md5 as published"
    assert (store / "downloads" / "cifar-10-binary.tar.gz").exists()
