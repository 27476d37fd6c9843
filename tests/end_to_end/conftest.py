"""Machines for a cluster's tests, made on this one: apart from each other as far as this machine allows.

As root on Linux each is a network namespace with an address of its own on a common bridge, its own processes, and its
own /tmp and /dev/shm; what they share is one folder, as machines share an NFS export. Elsewhere they are groups of
processes at one address.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import gcsearch

BIN = str(Path(sys.executable).parent)
"""Folder of the `ray` and `gcsearch` commands."""


class Hosts:
    """Some machines.

    Args:
        names: Of the machines.

    Attributes:
        shared: Folder that all of them see.
        are_apart: Whether they see nothing else of each other.
    """

    are_apart: bool

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.mark = f"gcs-{uuid.uuid4().hex[:6]}"
        self.root = Path(tempfile.mkdtemp(prefix=f"{self.mark}-", dir="/tmp"))
        self.shared = self.root / "shared"
        self.shared.mkdir()
        token = self.root / "shared" / "token"
        token.write_text(uuid.uuid4().hex * 2)
        token.chmod(0o600)
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RAY_", "MLFLOW_", "GCSEARCH_", "TMPDIR"))
        } | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            # A node that is gone is noticed in seconds; by default it takes a quarter of a minute and more.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "3",
            # By default the head gives up on a client's process after 30 s, which is short on two busy cores.
            "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "60",
        }
        self.started: list[subprocess.Popen[str]] = []

    def address(self, name: str) -> str:
        """IP address of a machine."""
        raise NotImplementedError

    def processes(self, name: str) -> dict[int, str]:
        """Process ids here and command lines of all that runs on a machine."""
        raise NotImplementedError

    def _command(self, name: str, command: Sequence[str]) -> list[str]:
        """The command as it is started from here."""
        raise NotImplementedError

    def temporary(self, name: str) -> str:
        """Folder for Ray's files of a machine, as the machine sees it."""
        raise NotImplementedError

    def own(self, name: str) -> tuple[str, Path]:
        """A folder that is a machine's own, as far as they are apart: as the machine sees it, and from here."""
        raise NotImplementedError

    def start(self, name: str, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command on a machine, in the shared folder."""
        process = subprocess.Popen(
            self._command(name, command),
            cwd=self.shared,
            env=self.environment | {"HOST_MARK": f"{self.mark}-{name}."} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, name: str, *command: str, code: int = 0, timeout: float = 120, **environment: str) -> str:
        """Run a command on a machine to its end; what it wrote."""
        process = self.start(name, *command, **environment)
        output, _ = process.communicate(timeout=timeout)
        assert process.returncode == code, output
        return output

    def start_ray(self, head: str, *others: str, cpus: int = 1) -> str:
        """Ray on all machines; its address."""
        memory = str(100_000_000)
        options = ["--num-cpus", str(cpus), "--object-store-memory", memory, "--disable-usage-stats"]
        address = f"{self.address(head)}:6379"
        temporary = ["--temp-dir", self.temporary(head)]
        at_head = ["--node-ip-address", self.address(head), "--port", "6379"]
        self.run(head, "ray", "start", "--head", *at_head, *options, *temporary)
        joining = [
            self.start(name, "ray", "start", "--address", address, "--node-ip-address", self.address(name), *options)
            for name in others
        ]
        for process in joining:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output
        return address

    def kill(self, name: str) -> None:
        """Kill everything on a machine at once."""
        for number in self.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def close(self) -> None:
        """Kill all machines and remove what they wrote."""
        for name in self.names:
            deadline = time.monotonic() + 10
            while self.processes(name) and time.monotonic() < deadline:
                self.kill(name)
                time.sleep(0.1)
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.communicate(timeout=10)
        shutil.rmtree(self.root, ignore_errors=True)


class Namespaces(Hosts):
    """Machines with addresses, processes and temporary files of their own."""

    are_apart = True

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self._first: dict[str, int] = {}
        self._switch = f"{self.mark}-net"
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for name in self.names:
            self._add(name)

    def _add(self, name: str) -> None:
        space = f"{self.mark}-{name}"
        _ip("netns", "add", space)
        _ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", self._switch)
        _ip("-n", self._switch, "link", "set", name, "master", "bridge", "up")
        _ip("-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")
        _ip("-n", space, "link", "set", "lo", "up")
        own = self.root / name
        binds = []
        # The program itself too, if it is installed somewhere in there.
        for folder in (self.shared, Path(gcsearch.__file__).parents[1], Path(sys.prefix)):
            if folder.is_relative_to("/tmp"):
                inside = own / folder.relative_to("/tmp")
                inside.mkdir(parents=True, exist_ok=True)
                binds.append(f"mount --bind {folder} {inside} && ")
        own.chmod(0o777)
        script = (
            f"{''.join(binds)}mount --rbind {own} /tmp && "
            "mount -t tmpfs -o size=512m tmpfs /dev/shm && echo ready && read -r"
        )
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script]
        process = subprocess.Popen(
            ["ip", "netns", "exec", space, *command],
            stdin=subprocess.PIPE,  # up as long as somebody holds this: it goes when the tests are killed
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        self._first[name] = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())

    def address(self, name: str) -> str:
        return f"10.77.0.{10 + self.names.index(name)}"

    def temporary(self, name: str) -> str:
        return "/tmp/ray"

    def own(self, name: str) -> tuple[str, Path]:
        return "/tmp/own", self.root / name / "own"

    def _command(self, name: str, command: Sequence[str]) -> list[str]:
        target = str(self._first[name])
        return ["nsenter", "--target", target, "--mount", "--pid", "--net", f"--wd={self.shared}", *command]

    def processes(self, name: str) -> dict[int, str]:
        first = Path(f"/proc/{self._first[name]}/ns/pid")
        try:
            space = first.readlink()
        except OSError:
            return {}
        return _matching(lambda process: (process / "ns" / "pid").readlink() == space)

    def kill(self, name: str) -> None:
        # With the first process of its process namespace, the kernel kills all others.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._first[name], signal.SIGKILL)

    def close(self) -> None:
        super().close()
        for space in [*(f"{self.mark}-{name}" for name in self.names), self._switch]:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


class Groups(Hosts):
    """Machines that are only groups of processes: what a user without root can have."""

    are_apart = False

    def address(self, name: str) -> str:
        return "127.0.0.1"

    def temporary(self, name: str) -> str:
        return str(self.root / "ray")

    def own(self, name: str) -> tuple[str, Path]:
        return str(self.root / name), self.root / name

    def _command(self, name: str, command: Sequence[str]) -> list[str]:
        return list(command)

    def processes(self, name: str) -> dict[int, str]:
        mark = f"HOST_MARK={self.mark}-{name}.".encode()
        return _matching(lambda process: mark in (process / "environ").read_bytes())


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_hosts(*names: str) -> Hosts:
    """Namespaces where they can be had, else groups of processes."""
    probe = f"gcs-{uuid.uuid4().hex[:6]}"
    if (
        shutil.which("ip")
        and subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True).returncode == 0
    ):
        _ip("netns", "del", probe)
        return Namespaces(names)
    return Groups(names)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Ray on three machines of one CPU: head, one, two."""
    made = make_hosts("head", "one", "two")
    try:
        made.start_ray("head", "one", "two")
        yield made
    finally:
        made.close()


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def _matching(condition: Callable[[Path], bool]) -> dict[int, str]:
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if condition(process):
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    if command:  # a process that ended and was not waited for has none
                        found[int(process.name)] = command
    return found
