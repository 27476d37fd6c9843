"""`ray up` with the file that is shipped, on machines with an ssh server of their own: see conftest.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gcsearch.ledger import LEDGER_NAME, StudyState, read_events

from .conftest import BIN, Hosts, make_hosts

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
HOME = "/tmp/home"
PROGRAMS = ("sshd", "ssh", "ssh-keygen", "rsync")

SSHD = f"""\
HostKey {HOME}/.ssh/host_key
AuthorizedKeysFile {HOME}/.ssh/authorized_keys
PasswordAuthentication no
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile /tmp/sshd.pid
SetEnv RAY_gcs_rpc_server_reconnect_timeout_s=10
"""

# The machines have no network but each other, and what the package needs is on them already.
PIP = "[global]\nno-index = true\nno-build-isolation = false\ndisable-pip-version-check = true\n"

MOUNT = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/studies && mount --bind {shared} /mnt/studies"

EXPERIMENT = """\
name: tiny
data: {name: digits}
network: {name: mlp, width: 16}
optimizer: {name: adam, lr: 1e-2}
training: {num_images: 4096, batch_size: 32}
evaluation: {every_images: 1024, num_samples: 64, metrics: [fid]}
"""

STUDY = """\
name: tiny
experiment: tiny
space:
  optimizer.lr: {min: 5e-3, max: 2e-2, scale: log}
budget: {trials: 4}
search: {sampler: random}
stopping: none
resources: {cpus_per_worker: CPUS}
"""


def find(program: str) -> str | None:
    """Path of a program, also of one that only root has on its path."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def write_home(hosts: Hosts, name: str, key: Path) -> None:
    """A home folder of a machine's own, in which root may log in with the key, and an environment without gcsearch."""
    home = hosts.root / name / "home"
    ssh = home / ".ssh"
    ssh.mkdir(parents=True, mode=0o700)
    shutil.copy(key, ssh / "id_ed25519")
    shutil.copy(key.with_suffix(".pub"), ssh / "authorized_keys")
    subprocess.run([find("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", ssh / "host_key"], check=True)
    (ssh / "sshd_config").write_text(SSHD)
    (home / ".config" / "pip").mkdir(parents=True)
    (home / ".config" / "pip" / "pip.conf").write_text(PIP)
    (home / ".ray").mkdir()
    # Another home for root, since python may be installed in the one it has.
    own = hosts.root / name
    lines = Path("/etc/passwd").read_text().splitlines()
    fields = next(line for line in lines if line.startswith("root:")).split(":")
    fields[5] = HOME
    (own / "passwd").write_text("\n".join([":".join(fields), *(line for line in lines if line[:5] != "root:")]) + "\n")
    hosts.run(name, "mount", "--bind", "/tmp/passwd", "/etc/passwd")
    hosts.run(name, "mkdir", "-p", "/run/sshd")


def write_environment(hosts: Hosts, name: str) -> None:
    """What `pip install` of the package's needs would have made, with Ray's command."""
    environment = f"{HOME}/gcsearch-env"
    hosts.run(name, sys.executable, "-m", "venv", environment, HOME=HOME)
    here = hosts.root / name / "home" / "gcsearch-env"
    site = here / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    for old in site.glob("setuptools*"):  # it would hide the newer one that the needs include
        shutil.rmtree(old)
    (site / "needs.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    script = here / "bin" / "ray"
    lines = (Path(BIN) / "ray").read_text().splitlines()
    script.write_text("\n".join([f"#!{environment}/bin/python", *lines[1:]]) + "\n")
    script.chmod(0o755)


@pytest.fixture
def machines() -> Iterator[Hosts]:
    """A user's machine and two to be made a cluster: with ssh servers, and studies mounted at the same place."""
    missing = [program for program in PROGRAMS if find(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: Debian's packages openssh-server, openssh-client and rsync")
    made = make_hosts("user", "head", "one")
    try:
        if not made.are_apart:
            pytest.skip("needs machines with addresses of their own, which only root can make")
        key = made.root / "id_ed25519"
        subprocess.run([find("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        for name in made.names:
            write_home(made, name, key)
        for name in ("head", "one"):
            write_environment(made, name)
            made.run(name, "bash", "-c", MOUNT.format(shared=made.shared))
            # Ray takes the address that leads to the rest of the world for a machine's own.
            made.run(name, "ip", "route", "add", "default", "dev", "eth0")
            made.start(name, find("sshd"), "-D", "-e", "-f", f"{HOME}/.ssh/sshd_config")
        yield made
    finally:
        made.close()


def write_cluster_file(hosts: Hosts) -> Path:
    """The repository with the lines changed that say CHANGE, as docs/cluster.md has it."""
    folder = hosts.root / "user" / "repository"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        folder.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    for name in ("gcsearch", "experiments", "search_spaces"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    lines = (REPOSITORY / "ray_cluster.yaml").read_text().splitlines()
    values = {
        "  head_ip: ": hosts.address("head"),
        "  worker_ips: ": f"[{hosts.address('one')}]",
        "  ssh_user: ": "root",
    }
    for number, line in enumerate(lines):
        for start, value in values.items():
            if line.startswith(start) and "CHANGE" in line:
                lines[number] = start + value
    (folder / "ray_cluster.yaml").write_text("\n".join(lines) + "\n")
    return folder


def test_the_shipped_file_makes_a_cluster_of_own_machines_that_runs_a_study(machines):
    folder, cores = write_cluster_file(machines), os.cpu_count() or 1
    inside = f"/tmp/{folder.name}"
    token = (machines.shared / "token").read_text()
    (machines.root / "user" / "home" / ".ray" / "auth_token").write_text(token)
    (machines.shared / "experiments").mkdir()
    (machines.shared / "experiments" / "tiny.yaml").write_text(EXPERIMENT)
    (machines.shared / "tiny.yaml").write_text(STUDY.replace("CPUS", str(cores)))
    # Whoever types the commands has no variables of the tests: the token is where the docs put it.
    plain = {"HOME": HOME, "RAY_AUTH_TOKEN_PATH": f"{HOME}/.ray/auth_token"}

    def ray(*arguments: str) -> str:
        typed = f"cd {inside} && ray {' '.join(arguments)}"
        return machines.run("user", "bash", "-c", typed, timeout=300, **plain)

    ray("up", "-y", "ray_cluster.yaml")
    deadline, status = time.monotonic() + 200, ""
    while f"{2 * cores}.0 CPU" not in status:  # the head makes the others join
        assert time.monotonic() < deadline, status
        status = ray("exec", "ray_cluster.yaml", "'RAY_AUTH_MODE=token ray status'")
    command = (
        "cd gcsearch && RAY_AUTH_MODE=token gcsearch run /mnt/studies/tiny.yaml "
        "--address auto --studies /mnt/studies/studies"
    )
    ray("exec", "ray_cluster.yaml", f"'{command}'")
    ray("down", "-y", "ray_cluster.yaml")

    events = read_events(machines.shared / "studies" / "tiny" / LEDGER_NAME)
    state = StudyState(events)
    assert state.ended
    assert [record.state for record in state.trials.values()] == ["completed"] * 4
    # Each trial takes all cores of a machine, so two at a time are on two machines.
    running, most = 0, 0
    for event in events:
        running += {"trial_started": 1, "trial_ended": -1}.get(event["event"], 0)
        most = max(most, running)
    assert most == 2
    assert not rays(machines, "head")
    # `ray down` stops the head only; the others end when they have looked for it in vain: see SSHD.
    deadline = time.monotonic() + 60
    while rays(machines, "one") and time.monotonic() < deadline:
        time.sleep(1)
    assert not rays(machines, "one")


def rays(hosts: Hosts, name: str) -> list[str]:
    """Commands of Ray that run on a machine."""
    return [command for command in hosts.processes(name).values() if "raylet" in command or "gcs_server" in command]
