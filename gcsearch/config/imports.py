"""A user's own components: modules named under `imports:` register them before the experiment is built."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from gcsearch.config.documents import Document, describe
from gcsearch.errors import ConfigError


def search_paths(document: Document) -> list[str]:
    """Folders in which a document's modules are looked for: its file's folder, then the working folder."""
    source = Path(document.source)
    folders = ([source.parent] if source.is_file() else []) + [Path.cwd()]
    return list(dict.fromkeys(str(folder.resolve()) for folder in folders))


def import_modules(document: Document) -> None:
    """Import the modules that a document names; what they register stays for the process.

    Raises:
        ConfigError: A module is missing, or fails while it is imported.
    """
    names = document.data.get("imports", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{document.where(('imports',))}: imports must be a list of module names, got {describe(names)}."
        )
    if not names:
        return
    sys.path[:] = [*sys.path, *(path for path in search_paths(document) if path not in sys.path)]
    for index, name in enumerate(names):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and not name.startswith(error.name):
                raise ConfigError(f"{document.where(('imports', index))}: imports: {name}: {error}.") from error
            raise ConfigError(
                f"{document.where(('imports', index))}: imports: there is no module '{name}'. Put it beside the "
                "experiment file or in the working folder, or install its package."
            ) from None
        except Exception as error:
            # Whatever a user's module raises while it is imported is the user's to mend.
            raise ConfigError(
                f"{document.where(('imports', index))}: imports: {name} failed: {type(error).__name__}: {error}."
            ) from error
