"""Experiment files: where they are, and reading them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gcsearch.config.documents import read_document
from gcsearch.config.experiment import Experiment
from gcsearch.errors import ConfigError, suggestion


def find_experiment(name: str, beside: Path | None = None) -> Path:
    """Path of an experiment given as a path or as the name of a file in an `experiments` folder.

    Args:
        name: ``digits`` or ``path/to/file.yaml``.
        beside: File that mentions it; an `experiments` folder next to that file's folder is looked into first.
    """
    direct = Path(name)
    if direct.suffix in (".yaml", ".yml") or direct.is_file():
        if beside and not direct.is_absolute() and not direct.is_file() and (beside.parent / direct).is_file():
            return beside.parent / direct
        return direct
    folders = ([beside.parent / "experiments", beside.parent.parent / "experiments"] if beside else []) + [
        Path("experiments")
    ]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = {path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.yaml")}
    raise ConfigError(f"experiment '{name}': no file {name}.yaml in an experiments folder. {suggestion(name, known)}")


def load_experiment(path: Path | str, assignments: Sequence[str] = (), imports: Sequence[str] = ()) -> Experiment:
    """Experiment from a file, with ``key=value`` overrides applied and modules added to its `imports`."""
    return Experiment.from_document(read_document(Path(path)).with_assignments(assignments).with_imports(imports))
