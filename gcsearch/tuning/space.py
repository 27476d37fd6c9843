"""Search spaces: the tree of what a study varies.

A space maps dotted experiment keys to nodes. A node is a range ``{min, max, scale}`` or a choice ``{values: [...]}``;
an option of a choice may be a component with nodes of its own, which exist only when it is chosen. Drawing from the
tree asks a `Chooser` for each node that exists and gives flat parameters such as
``{"timesteps": "exponential", "timesteps.s1": 80, "coupling.mu": 0.3}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, Protocol

from gcsearch.config import Document, Experiment
from gcsearch.config.documents import describe
from gcsearch.errors import ConfigError, suggestion

MISSING: Final = object()

Params = dict[str, Any]
"""Values of the parameters that exist in a trial, under dotted keys; a chosen component is its label."""


class Chooser(Protocol):
    """Picks a value for each node; random, model-based or fixed."""

    def number(self, name: str, node: Range) -> float:
        """A value of a range. `name` is unique in the tree, e.g. ``optimizer[lion].lr``."""

    def option(self, name: str, node: Choice) -> Any:
        """Label of an option of a choice."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included; integers if both ends were written as integers."""

    low: float
    high: float
    is_log: bool = False
    is_integer: bool = False

    def extremes(self) -> tuple[float, float]:
        """Both ends."""
        return self.low, self.high

    def probes(self) -> tuple[float, ...]:
        """Values to try before a search: the ends, and the second integer, which finds fields that must be even."""
        return (*self.extremes(), self.low + 1) if self.is_integer and self.low + 1 < self.high else self.extremes()


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a choice.

    Attributes:
        label: How parameters name it: the value itself, or a component's name.
        constant: The value, or the constant fields of a component.
        nodes: Nodes inside a component, by field.
    """

    label: Any
    constant: Any
    nodes: Mapping[str, Node] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several options."""

    options: tuple[Option, ...]

    def by_label(self, label: Any) -> Option:
        """The option with this label."""
        return next(option for option in self.options if option.label == label)


Node = Range | Choice


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One key of a space.

    Attributes:
        key: Dotted experiment key.
        node: What it may be.
        when: Conditions on other keys: value, or list of values, that the assembled experiment must have.
        place: ``file:line`` for messages.
    """

    key: str
    node: Node
    when: Mapping[str, Any]
    place: str


@dataclass(frozen=True)
class Space:
    """All entries; unconditional ones are drawn first, then those with `when`, in the order written.

    Attributes:
        entries: The entries.
        is_free: Whether their keys are free names, not keys of an experiment.
    """

    entries: tuple[Entry, ...]
    is_free: bool = False

    def draw(self, chooser: Chooser, base: Document) -> tuple[Params, Document]:
        """Parameters from a chooser, and the experiment they make of `base`."""
        params: Params = {}
        document = base
        for entry in self.in_order():
            if all(self._matches(document, key, wanted) for key, wanted in entry.when.items()):
                value = _draw(entry.node, entry.key, entry.key, chooser, params)
                document = document.with_values({entry.key: value}, entry.place)
                path = tuple(entry.key.split("."))
                for length in range(1, len(path)):  # sections that only the space mentions
                    document.places.setdefault(path[:length], entry.place)
        return params, document

    def _matches(self, document: Document, key: str, wanted: Any) -> bool:
        return matches(document, key, wanted, has_defaults=not self.is_free)

    def choose(self, chooser: Chooser, base: Document) -> Params:
        """Parameters from a chooser, without the experiment they make: what `draw` gives, in a fraction of its time."""
        params: Params = {}
        values: dict[str, Any] = {}
        document = None
        for entry in self.in_order():
            if entry.when:
                if document is None or values:
                    document, values = (document or base).with_values(values, entry.place), {}
                if not all(self._matches(document, key, wanted) for key, wanted in entry.when.items()):
                    continue
            values[entry.key] = _draw(entry.node, entry.key, entry.key, chooser, params)
        return params

    def variations(self, base: Document) -> Iterator[dict[str, Any]]:
        """Choices that reach every end of every range and every option at least once, as values for `FixedChooser`.

        Raises:
            ConfigError: The condition of an entry never holds.
        """
        known: list[dict[str, Any]] = [{}]
        for entry in self.in_order():
            context = self._context(entry, base, known)
            known += [context | values for values in _variations(entry.node, entry.key)]
        yield from known

    def in_order(self) -> list[Entry]:
        """The entries in the order they are drawn."""
        return sorted(self.entries, key=lambda entry: bool(entry.when))

    def _context(self, entry: Entry, base: Document, known: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Choices under which the entry exists, put together from known variations that meet one condition each."""
        context: dict[str, Any] = {}
        for key, wanted in entry.when.items():
            for values in ({}, context, *known):
                _, document = self.draw(FixedChooser(context | values), base)
                if self._matches(document, key, wanted):
                    context |= values
                    break
            else:
                raise ConfigError(
                    f"{entry.place}: space.{entry.key}.when: {key} must be a key and value that the experiment or the "
                    f"space can take, got {describe(wanted)}. {_nearest(key, Experiment.from_document(base).to_dict())}"
                )
        return context

    def with_real(self, names: frozenset[str]) -> Space:
        """Copy in which the named ranges are continuous, though their ends were written as integers."""
        entries = (replace(entry, node=_with_real(entry.node, entry.key, names)) for entry in self.entries)
        return replace(self, entries=tuple(entries))

    def place(self, key: str) -> str:
        """Where the entry of a parameter is written; the last one if it is drawn by several."""
        return [entry.place for entry in self.entries if f"{key}.".startswith(f"{entry.key}.")][-1]

    def has(self, key: str) -> bool:
        """Whether `key` is one of the entries."""
        return any(entry.key == key for entry in self.entries)


def _draw(node: Node, key: str, name: str, chooser: Chooser, params: Params) -> Any:
    if isinstance(node, Range):
        value = chooser.number(name, node)
        params[key] = int(value) if node.is_integer else float(value)
        return params[key]
    option = node.by_label(chooser.option(name, node))
    params[key] = option.label
    if not isinstance(option.constant, dict):
        return option.constant
    nested = {
        inner: _draw(child, f"{key}.{inner}", f"{name}[{option.label}].{inner}", chooser, params)
        for inner, child in option.nodes.items()
    }
    return option.constant | nested


def _variations(node: Node, name: str) -> Iterator[dict[str, Any]]:
    if isinstance(node, Range):
        yield from ({name: value} for value in node.probes())
        return
    for option in node.options:
        yield {name: option.label}
        for inner, child in option.nodes.items():
            for values in _variations(child, f"{name}[{option.label}].{inner}"):
                yield {name: option.label} | values


def _with_real(node: Node, name: str, names: frozenset[str]) -> Node:
    if isinstance(node, Range):
        return replace(node, is_integer=node.is_integer and name not in names)
    options = (
        replace(
            option,
            nodes={
                key: _with_real(child, f"{name}[{option.label}].{key}", names) for key, child in option.nodes.items()
            },
        )
        for option in node.options
    )
    return Choice(options=tuple(options))


def matches(document: Document, key: str, wanted: Any, *, has_defaults: bool = True) -> bool:
    """Whether the assembled experiment has the wanted value, or one of the wanted values, at `key`."""
    try:
        value = lookup(document.data, key)
    except KeyError:
        if not has_defaults:
            return False
        # not written, so its default counts
        try:
            value = lookup(Experiment.from_document(document).to_dict(), key)
        except KeyError:
            return False
    if isinstance(value, dict) and "name" in value:
        value = value["name"]
    return any(value == one for one in (wanted if isinstance(wanted, list) else [wanted]))


def _nearest(key: str, config: dict[str, Any]) -> str:
    """Suggestion for a key that means nothing, from the section it starts with; the value if it means something."""
    try:
        return f"It is {describe(lookup(config, key))} in the experiment."
    except KeyError:
        section = key.split(".")[0]
        fields = config[section] if isinstance(config.get(section), dict) else None
        return suggestion(key, [f"{section}.{name}" for name in fields] if fields else config)


def lookup(data: Any, key: str) -> Any:
    """Value at a dotted key; a component written as its bare name has that name and nothing else.

    Raises:
        KeyError: It is not there.
    """
    for part in key.split("."):
        if isinstance(data, str) and part == "name":
            continue
        if not isinstance(data, dict) or part not in data:
            raise KeyError(key)
        data = data[part]
    return data


class FixedChooser:
    """Takes given values where there are any, and the first option or lower end elsewhere.

    Args:
        values: Node name, or dotted parameter key, to value.
        otherwise: Chooser for everything that is not given.
    """

    def __init__(self, values: Mapping[str, Any], otherwise: Chooser | None = None) -> None:
        self.values = values
        self.otherwise = otherwise

    def _given(self, name: str) -> Any:
        """The given value, or MISSING: None is a value like any other."""
        return self.values.get(name, self.values.get(parameter_key(name), MISSING))

    def number(self, name: str, node: Range) -> float:
        given = self._given(name)
        if given is MISSING:
            return self.otherwise.number(name, node) if self.otherwise else node.low
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise ConfigError(f"{parameter_key(name)} must be a number, got {describe(given)}.")
        return float(given)

    def option(self, name: str, node: Choice) -> Any:
        given = self._given(name)
        for option in node.options if given is not MISSING else ():
            if option.label == label_of(given):
                return option.label
        return self.otherwise.option(name, node) if self.otherwise else node.options[0].label


@lru_cache(maxsize=4096)
def parameter_key(name: str) -> str:
    """Dotted key of a node's unique name: ``optimizer[lion].lr`` is ``optimizer.lr``."""
    key, depth = "", 0
    for letter in name:  # labels may hold brackets of their own: optimizer[lion(betas=[0.9, 0.99])].lr
        depth += letter == "["
        key += "" if depth else letter
        depth -= letter == "]"
    return key


def label_of(value: Any) -> Any:
    """How parameters name a value: itself, or its text if it is a list."""
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
