"""A command of gcsearch on the head of a Ray cluster, for a machine outside that reaches it through Ray Client.

Tune's controller and the ledger must be on a node of the cluster. So the files that the command reads go there, the
command runs there, and what it prints comes back as it is printed.
"""

from __future__ import annotations

import io
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from gcsearch.errors import ConfigError, StudyError
from gcsearch.tuning.alike import check_nodes
from gcsearch.tuning.cluster import QUIET, TOKEN

POLL_S: Final = 0.3
"""How often the head is asked for what was printed."""

CONNECT_ATTEMPTS: Final = 3

NOT_STARTED: Final = "Starting Ray client server failed"
"""What the head says if its process for a new client did not start in time. It forks where other threads run, and the
child of a busy head is stuck now and then; the next one is not."""

Line = tuple[str, str]
"""``stdout`` or ``stderr``, and what was written there."""


class Command:
    """A command of gcsearch on this machine; an actor on the head.

    Args:
        files: Content of each file of its folder.
        modules: The user's own modules as an archive, put beside the files; empty if there are none.
    """

    def __init__(self, files: Mapping[str, bytes], modules: bytes) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gcsearch-command-")
        self._lines: queue.SimpleQueue[Line] = queue.SimpleQueue()
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []
        folder = Path(self._folder.name)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if modules:
            with zipfile.ZipFile(io.BytesIO(modules)) as archive:
                archive.extractall(folder)

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it.

        Args:
            arguments: After ``gcsearch``.
            environment: Added to this process's.
        """
        import ray

        # Ray marks its workers in their environment; the command is a driver of its own.
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_JOB", "RAY_RAYLET"))
        }
        # The threads of Ray's workers block Ctrl-C, and what they start would inherit that.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gcsearch.cli.main", *arguments],
            cwd=self._folder.name,
            env={**inherited, "RAY_ADDRESS": ray.get_runtime_context().gcs_address, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, stream in (("stdout", self._process.stdout), ("stderr", self._process.stderr)):
            reader = threading.Thread(target=self._read, args=(name, stream), daemon=True)
            reader.start()
            self._readers.append(reader)

    def poll(self) -> tuple[int | None, list[Line]]:
        """Exit code, None while it runs; and what was printed since the last call."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            for reader in self._readers:
                reader.join()
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get())
        return code, lines

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)

    def _read(self, name: str, stream: Any) -> None:
        for line in stream:
            self._lines.put((name, line))


def run_on_head(
    address: str,
    arguments: Sequence[str],
    files: Mapping[str, bytes],
    modules: bytes,
    environment: Mapping[str, str],
    write: Callable[[str, str], None],
) -> int:
    """Run a command of gcsearch on the head of a cluster. Ctrl-C here interrupts it there, and
    waits for its end; a second one leaves, which ends it.

    Args:
        address: ``ray://HOST:PORT``, PORT being that of Ray Client (10001 by default).
        arguments: After ``gcsearch``; paths are those of the head, or names of `files`.
        files: What the command reads: name to content.
        modules: The user's own modules as an archive; empty if there are none.
        environment: Added to the command's.
        write: Told what is printed: ``stdout`` or ``stderr``, and a line.

    Returns:
        Its exit code.

    Raises:
        ConfigError: No cluster answers.
        StudyError: Another gcsearch is installed there, or the connection is lost: then the command is ended, and what
            the ledger has is kept.
    """
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    logging.getLogger("ray").setLevel(logging.ERROR)
    _connect(address)
    try:
        check_nodes()
        head = next(node for node in ray.nodes() if "node:__internal_head__" in node["Resources"])  # type: ignore[no-untyped-call]
        here = NodeAffinitySchedulingStrategy(head["NodeID"], soft=False)
        actor: Any = ray.remote(num_cpus=0)(Command)
        command = actor.options(scheduling_strategy=here).remote(dict(files), modules)
        ray.get(command.start.remote(list(arguments), dict(environment)))
        return _follow(command, write)
    except (ConnectionError, RayError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise StudyError(
            f"--address {address}: the connection to the cluster must stay open while the command runs there, but was "
            f"lost ({reason}). What the ledger has is kept; the same command goes on. For a study that needs no "
            "connection: `ray job submit`, as docs/cluster.md shows."
        ) from None
    finally:
        ray.shutdown()


def _follow(command: Any, write: Callable[[str, str], None]) -> int:
    """Pass on what the command prints, to its end; and Ctrl-C to it. A second Ctrl-C does not wait for its end."""
    import ray

    with _counted_interrupts() as interrupts:
        sent = 0
        while True:
            code, lines = ray.get(command.poll.remote())
            for stream, line in lines:
                write(stream, line)
            if code is not None:
                return int(code)
            if len(interrupts) > 1:
                raise KeyboardInterrupt
            if len(interrupts) > sent:
                ray.get(command.interrupt.remote())
                sent = len(interrupts)
            time.sleep(POLL_S)


@contextmanager
def _counted_interrupts() -> Iterator[list[int]]:
    """Collects the Ctrl-C of the block. An exception could come in the middle of Ray Client, which may lose it."""
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)


def _connect(address: str) -> None:
    import ray

    for attempt in range(1, CONNECT_ATTEMPTS + 1):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            return
        except (ConnectionError, RuntimeError, ValueError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            if attempt < CONNECT_ATTEMPTS and NOT_STARTED in lines[-1]:
                continue
            # What went wrong on the head comes as its traceback, whose last line says it.
            reason = " ".join(dict.fromkeys([lines[0], lines[-1]])).rstrip(".")
            raise ConfigError(
                f"--address {address}: no Ray cluster answers there ({reason}). The port is that of Ray Client, 10001 "
                f"unless `ray start` was told another; it must be reachable from here. {TOKEN}"
            ) from None
