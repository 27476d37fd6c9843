"""What study files and ablation files say alike: the experiment, what a training gets, the name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gcsearch.config import Document, Experiment, build_settings, find_experiment, read_document
from gcsearch.errors import ConfigError
from gcsearch.tuning.settings import Resources


def read_base(
    document: Document, path: Path, experiment: str | None, assignments: Sequence[str], imports: Sequence[str]
) -> Document:
    """The experiment that a file names, with the overrides of the command line.

    Args:
        document: The file.
        path: Where it lies; experiments are looked for beside it.
        experiment: Takes the place of the one that the file names.
        assignments: ``key=value`` overrides.
        imports: Modules to import besides those that the experiment names.

    Raises:
        ConfigError: There is no such experiment.
    """
    wanted = experiment or document.data["experiment"]
    if not isinstance(wanted, str):
        raise ConfigError(f"{document.where(('experiment',))}: experiment must be a name or a path, got {wanted!r}.")
    try:
        found = find_experiment(wanted, beside=path)
    except ConfigError as error:
        place = "--experiment" if experiment else document.where(("experiment",))
        raise ConfigError(f"{place}: {error}") from None
    return read_document(found).with_assignments(assignments).with_imports(imports)


def read_resources(document: Document, base: Document) -> tuple[Resources, Document, Experiment]:
    """What a training gets, and the experiment with as many workers, as a document and built.

    Raises:
        ConfigError: The section or the experiment is not legal.
    """
    built = Experiment.from_document(base)
    given = document.data.get("resources", {})
    if isinstance(given, dict):
        given = {"workers": built.training.num_workers, **given}
    resources = build_settings(Resources, given, document, ("resources",))
    if resources.workers != built.training.num_workers:
        place = document.where(("resources", "workers"))
        base = base.with_values({"training.num_workers": resources.workers}, place=place)
        built = Experiment.from_document(base)
    return resources, base, built


def read_name(document: Document, path: Path, name: str | None) -> str:
    """Name of a study or an ablation: that of the command line, of the file, or the file's own.

    Raises:
        ConfigError: No folder can have that name.
    """
    found = str(name or document.data.get("name") or path.stem)
    if not found.strip() or "/" in found or found.startswith("."):
        raise ConfigError(f"{document.where(('name',))}: name must be usable as a folder, got {found!r}.")
    return found
