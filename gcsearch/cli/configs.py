"""The command that turns other projects' configurations into experiment files."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from gcsearch.cli.console import print_json, progress, results
from gcsearch.config import read_document
from gcsearch.config.published import HEADINGS, Note, import_published, imported_yaml
from gcsearch.errors import ConfigError
from gcsearch.files import write_text

MAX_KEY = 46
"""Columns in which the published keys are lined up; the few longer ones stand out."""

INDENT = " " * 6


def import_command(file: Path, output: Path | None, *, as_json: bool) -> None:
    """Print or write the experiment of a published configuration; remarks go to stderr."""
    experiment, notes = import_published(read_document(file))
    if output is not None:
        _write(file, output, imported_yaml(experiment, notes, file.name))
    if as_json:
        print_json({"experiment": experiment, "notes": [note.to_dict() for note in notes]})
        return
    if output is None:
        results.out(imported_yaml(experiment, notes, file.name), highlight=False, end="")
    _print_notes(notes)
    if output is not None:
        results.print(f"Saved: {output}", markup=False)


def _write(file: Path, output: Path, text: str) -> None:
    if output.is_dir():
        raise ConfigError(f"--output {output}: is a folder, a file is needed.")
    if output.exists() and output.samefile(file):
        raise ConfigError(f"--output {output}: is the file that is imported. Name another one.")
    try:
        write_text(output, text)
    except OSError as error:
        raise ConfigError(f"--output {output}: cannot be written: {error.strerror}.") from None


def _print_notes(notes: Sequence[Note]) -> None:
    """All remarks by kind, what needs attention last, where the eye is."""
    for kind, heading in HEADINGS.items():
        chosen = [note for note in notes if note.kind == kind]
        if not chosen:
            continue
        progress.print(Text(f"{heading}:", style="bold yellow" if kind == "attention" else "bold"))
        width = max((len(note.there) for note in chosen if note.result and len(note.there) <= MAX_KEY), default=0)
        for note in chosen:
            _print_note(note, width)


def _print_note(note: Note, width: int) -> None:
    """One remark: on one line if it fits, otherwise the explanation below."""
    line = f"  {note.there:{width}} -> {note.result}" if note.result else f"  {note.there}"
    if note.result and len(line) > progress.width:
        line = f"  {note.there} -> {note.result}"
    if len(line) + 2 + len(note.why) <= progress.width:
        progress.print(Text.assemble(line, "  ", (note.why, "dim")))
        return
    progress.print(Text(_wrapped(line, "")))
    if note.why:
        progress.print(Text(_wrapped(note.why, INDENT), style="dim"))


def _wrapped(text: str, first: str) -> str:
    return textwrap.fill(text, progress.width, initial_indent=first, subsequent_indent=INDENT)
