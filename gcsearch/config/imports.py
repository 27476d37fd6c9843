"""A user's own components: modules named under `imports:` register them before the experiment is built."""

from __future__ import annotations

import hashlib
import importlib
import io
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from functools import lru_cache
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


def packed_modules(folders: Sequence[str]) -> bytes:
    """Source files of all imported modules that lie in `folders`, as a zip archive for machines without these folders.

    What the named modules have imported from there is in it too; installed packages and gcsearch itself are not.

    Args:
        folders: From `search_paths`, after the modules were imported.
    """
    files: dict[str, Path] = {}
    for name, module in sorted(sys.modules.items()):
        found = getattr(module, "__file__", None)
        if found is None or name.partition(".")[0] in ("gcsearch", "__main__"):
            continue
        for folder in folders:
            stem = Path(folder, *name.split("."))
            for path in (stem.with_suffix(".py"), stem / "__init__.py"):
                if Path(found) == path:
                    files[path.relative_to(folder).as_posix()] = path
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for inside, path in sorted(files.items()):
            # A fixed date, so that equal modules give equal bytes.
            target.writestr(zipfile.ZipInfo(inside, (1980, 1, 1, 0, 0, 0)), path.read_bytes())
    return archive.getvalue() if files else b""


def add_search_paths(folders: Sequence[str], archive: bytes) -> None:
    """Let this process import the modules of another: from its folders where they are here, else from the archive."""
    wanted = [*folders, *([_unpacked(archive)] if archive else [])]
    sys.path[:] = [*sys.path, *(path for path in wanted if path not in sys.path)]


@lru_cache(maxsize=8)
def _unpacked(archive: bytes) -> str:
    """Path of the archive on this machine, which Python imports from as it is."""
    name = hashlib.sha256(archive).hexdigest()[:16]
    path = Path(tempfile.mkdtemp(prefix="gcsearch-modules-")) / f"{name}.zip"
    path.write_bytes(archive)
    return str(path)
