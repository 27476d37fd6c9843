"""Where numbers come from: what is recorded tells two states of the code apart."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from gcsearch.provenance import environment, git_state, provenance


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in a repository of its own, with one commit."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__init__.py").write_text("one = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "-m", "first")
    return folder


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


def state(folder: Path) -> dict[str, object] | None:
    git_state.cache_clear()
    return git_state(folder)


def test_every_state_of_the_code_has_a_hash_of_its_own(package: Path) -> None:
    clean = state(package)
    assert clean is not None
    assert re.fullmatch("[0-9a-f]{40}", str(clean["commit"]))
    assert (clean["is_dirty"], clean["diff_sha256"]) == (False, None)

    hashes = []
    for change in (("__init__.py", "one = 2\n"), ("new.py", "two = 2\n"), ("new.py", "two = 3\n")):
        (package / change[0]).write_text(change[1])
        changed = state(package)
        assert changed is not None
        assert (changed["commit"], changed["is_dirty"]) == (clean["commit"], True)
        hashes.append(changed["diff_sha256"])
    assert len(set(hashes)) == 3
    assert state(package) == changed


def test_files_outside_the_package_do_not_count(package: Path) -> None:
    (package.parent / "notes.txt").write_text("mine")
    found = state(package)
    assert found is not None
    assert found["is_dirty"] is False


def test_a_package_that_is_not_under_version_control_has_no_state(package: Path, tmp_path: Path) -> None:
    installed = package.parent / "site-packages"
    installed.mkdir()
    (installed / "__init__.py").write_text("")
    assert state(installed) is None
    assert state(tmp_path / "nowhere") is None


def test_versions_machine_seeds_and_environment_are_there() -> None:
    found = provenance(search=3)
    assert found["seeds"] == {"search": 3}
    assert found["versions"]["torch"] != "not installed"
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["memory_gb"] > 0
    lines = environment()
    assert f"torch=={found['versions']['torch']}" in lines
    assert lines == sorted(lines, key=str.lower)
