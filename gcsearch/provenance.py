"""Where numbers come from: versions, machine, state of the code, command. What a ledger records at its start."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any, Final

VERSIONS: Final = (
    "gcsearch",
    "torch",
    "torchvision",
    "ray",
    "optuna",
    "mlflow",
    "torch-fidelity",
    "numpy",
    "scipy",
)
"""Packages whose versions decide about numbers."""

COMMAND: Final = "GCSEARCH_COMMAND"
"""Environment variable with the command that this process carries out for another machine."""


def provenance(**seeds: int) -> dict[str, Any]:
    """Versions, machine, state of the code and command of this process.

    Args:
        seeds: Seeds by what they are for.
    """
    return {
        "versions": {name: _version(name) for name in VERSIONS},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": hardware(),
        "git": git_state(),
        "command": typed_command(),
        "seeds": dict(seeds),
    }


def typed_command() -> str:
    """The command of this process as the user typed it: perhaps on another machine, which says so in `COMMAND`."""
    return os.environ.get(COMMAND) or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def environment() -> list[str]:
    """Every installed package as ``name==version``, sorted: what ``pip install -r`` reads."""
    found = {dist.metadata["Name"]: dist.version for dist in distributions() if dist.metadata["Name"]}
    return sorted((f"{name}=={number}" for name, number in found.items()), key=str.lower)


@cache
def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in GB, and GPUs of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {"cpu": _processor(), "cores": cores, "memory_gb": round(memory / 1e9, 1), "gpus": _gpus()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Names of the GPUs, from the driver: asking torch would take memory on them."""
    if not shutil.which("nvidia-smi"):
        return []
    try:
        return _run("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


@cache
def git_state(folder: Path = Path(__file__).parent) -> dict[str, Any] | None:
    """Commit of the code in a folder and its uncommitted changes; None outside a repository.

    `diff_sha256` is the hash of what differs from the commit, new files included; None if nothing does. Of the
    repository only the folder counts: by default the package, since what a user writes is in the ledger as a whole.

    Args:
        folder: Must hold an ``__init__.py`` that is under version control; a package installed into a folder that
            belongs to somebody else's repository has no state.
    """
    try:
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(folder, "rev-parse", "HEAD").strip()
        is_dirty = bool(_git(folder, "status", "--porcelain", "."))
        return {"commit": commit, "is_dirty": is_dirty, "diff_sha256": _difference(folder) if is_dirty else None}
    except (OSError, subprocess.SubprocessError):
        return None


def _difference(folder: Path) -> str:
    digest = hashlib.sha256(os.fsencode(_git(folder, "diff", "--binary", "--no-ext-diff", "HEAD", ".")))
    untracked = _git(folder, "ls-files", "-z", "--others", "--exclude-standard", ".")
    for name in sorted(filter(None, untracked.split("\0"))):
        digest.update(os.fsencode(name) + b"\0" + (folder / name).read_bytes())
    return digest.hexdigest()


def _git(folder: Path, *arguments: str) -> str:
    return _run("git", "-C", str(folder), *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="surrogateescape", check=True, timeout=10
    )
    return done.stdout


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
