"""A user's own component, as docs/own_components.md shows it."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gcsearch.config import load_experiment
from gcsearch.config.imports import packed_modules
from gcsearch.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "own_components.md"


@pytest.fixture
def documented(tmp_path: Path) -> Path:
    """The page's two files, the training made short."""
    text = PAGE.read_text()
    module = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)
    experiment = re.search(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert module
    assert experiment
    (tmp_path / "my_coupling.py").write_text(module[1])
    (tmp_path / "softened.yaml").write_text(experiment[1])
    return tmp_path


SHORT = ["training.num_images=256", "evaluation.every_images=256", "evaluation.num_samples=64", "network.width=16"]


@pytest.mark.slow
def test_the_documented_component_trains_from_its_file(documented: Path) -> None:
    command = [sys.executable, "-m", "gcsearch.cli.main", "train", str(documented / "softened.yaml")]
    command += [word for assignment in SHORT for word in ("--set", assignment)]
    done = subprocess.run(command, cwd=documented, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "softened" in (documented / "runs" / "softened" / "config.yaml").read_text()


@pytest.fixture
def with_modules(tmp_path: Path) -> Path:
    """An experiment that names one module, beside that and another one; neither registers anything."""
    for module in ("named_module", "given_module"):
        (tmp_path / f"{module}.py").write_text("")
    path = tmp_path / "experiment.yaml"
    path.write_text("name: x\nimports: [named_module]\ndata: digits\nnetwork: mlp\n")
    return path


def test_a_module_of_the_command_line_is_one_of_the_experiment(with_modules: Path) -> None:
    named = load_experiment(with_modules)
    with_modules.write_text(with_modules.read_text().replace("imports: [named_module]\n", ""))
    given = load_experiment(with_modules, imports=["named_module", "named_module"])
    assert given == named
    assert given.fingerprint == named.fingerprint != load_experiment(with_modules).fingerprint


def test_modules_of_the_command_line_come_after_those_of_the_file_and_are_named_in_messages(
    with_modules: Path,
) -> None:
    experiment = load_experiment(with_modules, imports=["given_module", "named_module"])
    assert experiment.imports == ("named_module", "given_module")
    with pytest.raises(ConfigError, match=r"--import absent: imports: there is no module 'absent'"):
        load_experiment(with_modules, imports=["absent"])


IMPORT_ELSEWHERE = """
import sys
from gcsearch.config.imports import add_search_paths
add_search_paths([sys.argv[1]], open(sys.argv[2], "rb").read())
module = __import__(sys.argv[3])
print(module.VALUE, module.__file__)
"""


@pytest.mark.parametrize("is_there", [False, True])
def test_modules_reach_a_process_that_lacks_their_folder(tmp_path: Path, is_there: bool) -> None:
    folder, module, package = tmp_path / "here", f"shipped_{is_there}", f"shipped_{is_there}_package"
    (folder / package).mkdir(parents=True)
    (folder / f"{module}.py").write_text(f"from {package}.inner import VALUE\n")
    (folder / package / "__init__.py").write_text("")
    (folder / package / "inner.py").write_text("VALUE = 'shipped'\n")
    (folder / "bystander.py").write_text("raise RuntimeError('nobody imported this')\n")
    path = folder / "experiment.yaml"
    path.write_text("name: x\nimports: [MODULE]\ndata: digits\nnetwork: mlp\n".replace("MODULE", module))
    load_experiment(path)
    archive = packed_modules([str(folder)])
    assert archive == packed_modules([str(folder)])
    with zipfile.ZipFile(io.BytesIO(archive)) as content:
        assert content.namelist() == [f"{module}.py", f"{package}/__init__.py", f"{package}/inner.py"]
    (tmp_path / "archive").write_bytes(archive)
    there = folder if is_there else folder.rename(tmp_path / "gone")
    command = [sys.executable, "-c", IMPORT_ELSEWHERE, str(tmp_path / "here"), str(tmp_path / "archive"), module]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    value, origin = done.stdout.split()
    assert value == "shipped"
    assert origin.startswith(str(there)) is is_there


def test_nothing_is_packed_where_no_module_comes_from_the_folders(tmp_path: Path) -> None:
    assert packed_modules([str(tmp_path), str(Path(pytest.__file__).parent)]) == b""


@pytest.mark.slow
def test_the_documented_component_runs_in_the_processes_of_a_study(documented: Path) -> None:
    (documented / "space.yaml").write_text(
        "experiment: softened.yaml\nbudget: {trials: 2}\nspace:\n  coupling.pull: {min: 0, max: 1}\n"
    )
    elsewhere = documented / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "gcsearch.cli.main", "run", str(documented / "space.yaml")]
    command += [word for assignment in SHORT for word in ("--set", assignment)]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "2 completed" in done.stderr


@pytest.mark.parametrize(
    ("module", "imports", "expected"),
    [
        ("", "[no_such_module_of_mine]", "there is no module 'no_such_module_of_mine'"),
        ("import no_such_library", "[broken_one]", "No module named 'no_such_library'"),
        ("1 / 0", "[broken_two]", "ZeroDivisionError"),
        ("", "no_list", "list of module names"),
        ("", "[3]", "list of module names"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_its_line(
    tmp_path: Path, module: str, imports: str, expected: str
) -> None:
    (tmp_path / f"{imports.strip('[]')}.py").write_text(module) if module else None
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\nimports: {imports}\ndata: digits\n")
    with pytest.raises(ConfigError, match=re.escape(expected)) as error:
        load_experiment(path)
    assert f"{path}:2" in str(error.value)


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken_name.py").write_text(
        "from dataclasses import dataclass\n"
        "from gcsearch.science.distances import SquaredL2, distances\n"
        "distances.register('l2')(type('Mine', (SquaredL2,), {}))\n"
    )
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nimports: [taken_name]\ndata: digits\n")
    with pytest.raises(ConfigError, match="registered twice"):
        load_experiment(path)
