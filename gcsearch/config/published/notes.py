"""What an import has to say, and the sections it is said about."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar

from gcsearch.config.build import build_settings
from gcsearch.config.documents import Document, KeyPath, describe
from gcsearch.config.published.keys import UNUSED
from gcsearch.errors import ConfigError

S = TypeVar("S")

NoteKind = Literal["attention", "mapped", "default", "fixed", "unused"]

HEADINGS: dict[NoteKind, str] = {
    "mapped": "Mapped",
    "default": "Not in the file: that code's own default",
    "fixed": "Not a key there: written in that code",
    "unused": "Without effect there, and left out",
    "attention": "Needs your attention",
}
"""Kinds of notes in the order in which they are shown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Note:
    """One remark about one key.

    Attributes:
        kind: What became of the key; see `HEADINGS`.
        key: Dotted published key, or what the remark is about.
        value: Its value there; None if it has none.
        here: Key of the experiment that it became, or the section that the remark belongs to; empty for the whole.
        becomes: Value of that key; None if the remark is about something else than a value.
        why: Explanation, in whole sentences; may be empty.
    """

    kind: NoteKind
    key: str
    value: Any = None
    here: str = ""
    becomes: Any = None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the same keys for every note."""
        return dataclasses.asdict(self)

    @property
    def there(self) -> str:
        """Key and value in the published file."""
        return self.key if self.value is None else f"{self.key}: {inline(self.value)}"

    @property
    def result(self) -> str:
        """Key and value in the experiment; empty if there is none."""
        return "" if self.becomes is None else f"{self.here}: {inline(self.becomes)}"


Mapped = tuple[dict[str, Any], list[Note]]
"""A section of an experiment and the remarks about it."""


def fixed(key: str, here: str, becomes: Any) -> Note:
    """Remark on a value that is written in that code."""
    return Note(kind="fixed", key=key, here=here, becomes=becomes)


def inline(value: Any) -> str:
    """A plain value as it would stand in YAML on one line; what cannot is shown escaped."""
    if isinstance(value, str):
        return value if value.isprintable() and len(value) <= 80 else describe(value)
    if isinstance(value, dict):
        return describe(value)
    return json.dumps(value)


class Section(Generic[S]):
    """A section of a published file: its typed values, and which of its keys the file has.

    Args:
        document: The file.
        name: ``train_config``, ``generator``, or empty for the top level.
        cls: Dataclass of the keys that the training reads.
        skip: Keys that belong to somebody else.

    Raises:
        ConfigError: A key that is read has the wrong type or a value that means nothing.
    """

    def __init__(self, document: Document, name: str, cls: type[S], skip: Sequence[str] = ()) -> None:
        self.document, self.name = document, name
        self.path: KeyPath = (name,) if name else ()
        data = document.data[name] if name else document.data
        if not isinstance(data, dict):
            raise ConfigError(f"{document.where(self.path)}: {name} must be a mapping, got {describe(data)}.")
        fields = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]  # S is a dataclass
        self.given = {key: value for key, value in data.items() if key in fields}
        for key, value in self.given.items():
            if isinstance(value, str) and "${" in value:
                raise ConfigError(
                    f"{self.where(key)}: {self.key(key)} must be a value, got the interpolation {describe(value)}. "
                    "Write the value in its place."
                )
        self.values = build_settings(cls, self.given, document, self.path)
        self.unused = {key: value for key, value in data.items() if key in UNUSED[name]}
        self.unknown = {key: data[key] for key in data if key not in (*fields, *UNUSED[name], *skip)}
        self.known = [*fields, *UNUSED[name], *skip]

    def key(self, key: str) -> str:
        """Dotted key."""
        return f"{self.name}.{key}" if self.name else key

    def where(self, key: str) -> str:
        """File and line of a key."""
        return self.document.where((*self.path, key))

    def note(self, key: str, here: str, becomes: Any, why: str = "", attention: bool = False) -> Note:
        """Remark on a key that is read: mapped if the file has it, else that code's default."""
        kind: NoteKind = "attention" if attention else "mapped" if key in self.given else "default"
        value = self.given.get(key, getattr(self.values, key))
        return Note(kind=kind, key=self.key(key), value=value, here=here, becomes=becomes, why=why)

    def left_out(self) -> list[Note]:
        """Remarks on keys without effect, and on unknown ones."""
        notes = [
            Note(kind="unused", key=self.key(key), value=value, why=UNUSED[self.name][key])
            for key, value in self.unused.items()
        ]
        return notes + [
            Note(kind="attention", key=inline(self.key(key)), value=value, why=self._unknown(key))
            for key, value in self.unknown.items()
        ]

    def _unknown(self, key: str) -> str:
        if not self.name and key in ("defaults", "hydra"):
            return (
                "Hydra's composition is not followed: keys of other files are missing here. Import the composed file."
            )
        near = difflib.get_close_matches(key, self.known, n=1, cutoff=0.6)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return f"Unknown to that code, and left out.{hint}"
