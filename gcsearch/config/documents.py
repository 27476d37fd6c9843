"""YAML files as plain data that remembers where each value was written.

YAML 1.2: ``1e-4`` and ``512_000`` are numbers, ``on`` and ``no`` are strings, a repeated key is an error.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from gcsearch.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""Where a value sits in a document, e.g. ``("coupling", "mu")``."""


@dataclass(frozen=True)
class Document:
    """Plain data and the place each part of it comes from.

    Attributes:
        data: Nested dicts, lists and scalars.
        source: Name of the whole, e.g. the file's path.
        places: ``file:line`` or ``--set key=value`` for the keys that are known.
    """

    data: dict[str, Any]
    source: str = "configuration"
    places: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """Place of the value at `path`, or of the nearest part around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.source

    def with_values(self, values: dict[str, Any], place: str | None = None) -> Document:
        """Copy with dotted keys set, e.g. ``{"coupling.mu": 0.3}``.

        A key inside a component that was written as its bare name turns the name into ``{name: ...}`` first.

        Args:
            values: Dotted key to value; a value that is a mapping replaces the whole section.
            place: Where the values come from, for messages; by default the key itself.
        """
        data, places = copy.deepcopy(self.data), dict(self.places)
        for dotted, value in values.items():
            path = tuple(dotted.split("."))
            node = data
            for key in path[:-1]:
                inner = node.get(key)
                if isinstance(inner, str):
                    inner = {"name": inner}
                node[key] = inner = {} if inner is None else inner
                if not isinstance(inner, dict):
                    raise ConfigError(f"{place or dotted}: '{key}' is not a section, so '{dotted}' cannot be set.")
                node = inner
            node[path[-1]] = copy.deepcopy(value)
            places = {known: at for known, at in places.items() if known[: len(path)] != path}
            places[path] = place or dotted
        return Document(data, self.source, places)

    def with_assignments(self, assignments: Sequence[str]) -> Document:
        """Copy with ``key=value`` texts of the command line applied in order."""
        document = self
        for assignment in assignments:
            key, value = parse_assignment(assignment)
            document = document.with_values({key: value}, place=_one_line(f"--set {assignment}"))
        return document

    def with_imports(self, modules: Sequence[str]) -> Document:
        """Copy with modules of the command line added to those under `imports`."""
        named = self.data.get("imports", [])
        if not modules or not isinstance(named, list):  # what is no list is refused where modules are imported
            return self
        wanted = [*named, *(module for module in dict.fromkeys(modules) if module not in named)]
        document = self.with_values({"imports": wanted}, place="--import")
        for index in range(len(wanted)):
            path: KeyPath = ("imports", index)
            document.places[path] = self.where(path) if index < len(named) else f"--import {wanted[index]}"
        return document


def parse_assignment(text: str) -> tuple[str, Any]:
    """``a.b=value`` as dotted key and value; the value is read as YAML."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip() or any(not part for part in key.strip().split(".")):
        raise ConfigError(
            f"{_one_line(f'--set {text}')}: must have the form key=value, for example --set coupling.mu=0.3."
        )
    return key.strip(), parse_value(value, f"--set {text}")


def parse_value(text: str, source: str) -> Any:
    """A value of the command line, read as YAML; `source` names it in messages."""
    return _parse(text, _one_line(source))[0]


def read_document(path: Path) -> Document:
    """Read a YAML file whose top level is a mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. Check the path, or run from the folder that holds it.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, a YAML file is needed.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}.") from None
    data, places = _parse(text, str(path))
    if data is None:
        raise ConfigError(f"{path}: is empty. See experiments/digits.yaml for every section.")
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values at the top level, got {describe(data)}.")
    return Document(data, str(path), places)


def _parse(text: str, source: str) -> tuple[Any, dict[KeyPath, str]]:
    places: dict[KeyPath, str] = {}
    try:
        return _plain(YAML(typ="rt").load(io.StringIO(text)), (), source, places), places
    except DuplicateKeyError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = _one_line(str(error.problem))
        raise ConfigError(f"{source}{line}: a key is written twice: {problem}. Remove one.") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{source}{line}: is not valid YAML: {_one_line(str(error.problem))}.") from None
    except ConfigError:
        raise
    except (
        YAMLError,
        ValueError,
        KeyError,
        RecursionError,
    ) as error:  # explicit tags, such as !!bool x, raise anything
        raise ConfigError(f"{source}: is not valid YAML: {_one_line(str(error))}.") from None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _line(node: CommentedMap | CommentedSeq, key: Any) -> int | None:
    """Line of a key or item, from 1; None for what a merge (``<<``) brought in."""
    try:
        mark = node.lc.key(key) if isinstance(node, CommentedMap) else node.lc.item(key)
        return int(mark[0]) + 1
    except (KeyError, TypeError):
        return None


def _plain(node: Any, path: KeyPath, source: str, places: dict[KeyPath, str]) -> Any:
    """Strip ruamel's wrappers, noting the line of every key and item."""
    if isinstance(node, CommentedMap):
        for key in node:
            if line := _line(node, key):
                places[(*path, key)] = f"{source}:{line}"
            if not isinstance(key, str):
                place = places.get((*path, key), source)
                raise ConfigError(f"{place}: a key must be a word, got {describe(key)}.")
        return {str(key): _plain(value, (*path, str(key)), source, places) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            if line := _line(node, index):
                places[(*path, index)] = f"{source}:{line}"
        return [_plain(value, (*path, index), source, places) for index, value in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    for scalar in (int, float, str):
        if isinstance(node, scalar):
            return scalar(node)
    place = places.get(path, source)
    raise ConfigError(
        f"{place}: must be a number, word, list or mapping, got {describe(node)}. Quote it if it is a word."
    )


def describe(value: Any) -> str:
    """A value as it should appear in a message: short, with quotes around words."""
    if isinstance(value, dict):
        return f"the mapping {{{', '.join(map(str, value))}}}" if value else "an empty mapping"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def dump_yaml(data: dict[str, Any]) -> str:
    """Plain data as YAML in the order given; what is short and simple stands on one line."""
    yaml = YAML()
    yaml.width = 200
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.ignore_aliases = lambda *_: True
    stream = io.StringIO()
    yaml.dump(CommentedMap({key: _styled(value) for key, value in data.items()}), stream)
    return stream.getvalue()


def _styled(value: Any, max_width: int = 100) -> Any:
    """Short mappings, and lists without mappings, in flow style, which is how the shipped files are written."""
    if isinstance(value, dict):
        mapping = CommentedMap({key: _styled(item) for key, item in value.items()})
        holds_mappings = any(isinstance(item, dict) for inner in value.values() for item in _items(inner))
        if value and not holds_mappings and len(repr(value)) <= max_width:
            mapping.fa.set_flow_style()
        return mapping
    if isinstance(value, list):
        sequence = CommentedSeq([_styled(item) for item in value])
        if not any(isinstance(item, dict) for item in value):
            sequence.fa.set_flow_style()
        return sequence
    return value


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
