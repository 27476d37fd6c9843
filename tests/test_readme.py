"""What the README shows must work."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from gcsearch.cli.main import app
from gcsearch.tuning.spec import load_study

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "docs/ablations.md",
    "docs/cluster.md",
    "docs/data.md",
    "docs/diagnostics.md",
    "docs/evaluation.md",
    "docs/experiments.md",
    "docs/import.md",
    "docs/mlflow.md",
    "docs/own_components.md",
    "docs/report.md",
    "docs/results.md",
    "docs/studies.md",
    "docs/workers.md",
    "CONTRIBUTING.md",
]


def test_the_search_space_in_the_readme_loads(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert block is not None
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "mine.yaml").write_text(block[1])
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    study = load_study(tmp_path / "search_spaces" / "mine.yaml")
    assert study.budget.trials == 16
    assert study.space.has("network.dropout")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_names_exists(page: str) -> None:
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {group.name for group in app.registered_groups if group.name}
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`gcsearch ([a-z-]+)", text)) | set(re.findall(r"bin/gcsearch ([a-z-]+)", text))
    assert named <= known
    if page == "README.md":
        assert named == known


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    links = [link for link in links if not link.startswith("http")]
    folder = (ROOT / page).parent
    assert all((folder / link).exists() for link in links)


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    readme, script = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    commands = [block.strip() for block in re.findall(r"```bash\n(.*?)```", readme, flags=re.DOTALL)]
    tests = [command for command in commands if "pytest" in command.splitlines()[-1]]
    assert tests
    assert all(shlex.split(tests[-1]) == shlex.split(line) for line in script.splitlines() if line == tests[-1])
    assert tests[-1] in script.splitlines()
