"""An MLflow server that is killed and comes back, its databases, and a bad line to it."""

from __future__ import annotations

import http.client
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gcsearch.tracking import ui_command

HOST = "127.0.0.1"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Server:
    """A server of its own processes.

    Args:
        uri: Database.
        folder: Where its artifacts and its log go.
    """

    def __init__(self, uri: str, folder: Path) -> None:
        self.port, self.uri, self.folder = free_port(), uri, folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, patience_s: float = 90.0) -> None:
        """Start it and wait until it answers."""
        argv, environment = ui_command(self.uri, port=self.port)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                argv, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + patience_s
        while True:
            try:
                with urllib.request.urlopen(f"http://{HOST}:{self.port}/health", timeout=2):
                    return
            except OSError:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.1)

    def kill(self) -> None:
        """Kill it without a word, with everything it started."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class BadLine:
    """A proxy that sometimes refuses, and sometimes loses the answer to a request that arrived.

    Args:
        port: Of the server.
        every: Every so many requests something goes wrong: in turn status 500, and no answer.
    """

    def __init__(self, port: int, every: int) -> None:
        self.num_requests, self.num_lost, self.num_refused = 0, 0, 0
        line, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with lock:
                    line.num_requests += 1
                    fault, is_refusal = line.num_requests % every == 0, line.num_requests // every % 2 == 0
                    line.num_refused += fault and is_refusal
                    line.num_lost += fault and not is_refusal
                if fault and is_refusal:
                    self.send_error(500)
                    return
                try:
                    connection = http.client.HTTPConnection(HOST, port, timeout=30)
                    connection.request(self.command, self.path, body, dict(self.headers))
                    answer = connection.getresponse()
                    content = answer.read()
                except OSError:
                    self.send_error(502)
                    return
                if fault:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name in ("Content-Type", "Content-Disposition"):
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward  # noqa: N815

            def log_message(self, format: str, *arguments: Any) -> None:
                del format, arguments

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self.address = f"http://{HOST}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()


def postgresql_folder() -> Path | None:
    """Folder of PostgreSQL's programs; None if the machine has none."""
    on_path = shutil.which("pg_ctl")
    found = [Path(on_path)] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    return found[-1].parent if found else None


@contextmanager
def postgresql(programs: Path) -> Iterator[str]:
    """A database of its own for as long as the block runs; its URI."""
    root, port = Path(tempfile.mkdtemp(prefix="gcsearch-pg-", dir="/tmp")), free_port()
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name  # it refuses to run as root
    data = str(root / "data")
    if os.geteuid() == 0:
        shutil.chown(root, user)

    def call(program: str, *arguments: str) -> None:
        command = [str(programs / program), *arguments]
        done = subprocess.run(
            command,
            user=user if os.geteuid() == 0 else None,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    try:
        call("initdb", "-D", data, "-U", "mlflow", "-A", "trust", "--no-sync")
        options = f"-p {port} -c listen_addresses={HOST} -c unix_socket_directories='' -c fsync=off"
        call("pg_ctl", "-D", data, "-w", "-l", str(root / "log"), "-o", options, "start")
        try:
            yield f"postgresql://mlflow@{HOST}:{port}/postgres"
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(root, ignore_errors=True)
