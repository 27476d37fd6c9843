"""From the `space` section of a study file to a `Space`, with file and line in every message."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gcsearch.config import Document
from gcsearch.config.documents import KeyPath, describe
from gcsearch.errors import ConfigError, suggestion
from gcsearch.tuning.space import Choice, Entry, Node, Option, Range, Space, label_of


def parse_space(spec: Any, document: Document, path: KeyPath = ("space",), *, is_free: bool = False) -> Space:
    """Space from the `space` section of a study file; with `is_free`, its keys are free names."""
    if not isinstance(spec, dict) or not spec:
        raise ConfigError(
            f"{document.where(path)}: space must be a mapping of experiment keys to what they may be, and not empty. "
            "For example coupling.mu: {min: 0.0, max: 1.0}."
        )
    entries = []
    for key, value in spec.items():
        at = (*path, key)
        place = document.where(at)
        if not is_free and (key == "seed" or key.endswith(".seed")):
            raise ConfigError(
                f"{place}: space.{key} must not be searched: the best seed is luck, not a recipe. Remove it, and set "
                "seed in the experiment if it matters."
            )
        if not is_free and (key.split(".")[0] in ("evaluation", "data", "name") or key == "training.num_images"):
            raise ConfigError(
                f"{place}: space.{key} must not be searched: trials that differ in it cannot be compared. Set it with "
                f"--set {key}=... for the whole study."
            )
        if key == "training.num_workers":
            raise ConfigError(f"{place}: space.{key} must not be searched: it changes no score. Set resources.workers.")
        when = value.get("when", {}) if isinstance(value, dict) else {}
        if not isinstance(when, dict):
            raise ConfigError(f"{place}: space.{key}.when must be a mapping of keys to values, got {describe(when)}.")
        node = {name: inner for name, inner in value.items() if name != "when"} if isinstance(value, dict) else value
        entries.append(Entry(key=key, node=_parse_node(node, document, at), when=when, place=place))
    space = Space(tuple(entries), is_free)
    _check_overlaps(space)
    return space


def _check_overlaps(space: Space) -> None:
    """A key inside another one must be drawn after it, or the whole would replace the part without a word."""
    entries = space.in_order()
    for index, part in enumerate(entries):
        for whole in entries[index + 1 :]:
            if part.key.startswith(f"{whole.key}."):
                raise ConfigError(
                    f"{part.place}: space.{part.key} must come after space.{whole.key}, which replaces all of "
                    f"'{whole.key}'. Move it below, or into the options of {whole.key}."
                )


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and ("values" in value or "min" in value or "max" in value) and "name" not in value


def _parse_node(spec: Any, document: Document, path: KeyPath) -> Node:
    place, label = document.where(path), ".".join(map(str, path))
    if not _is_node(spec):
        raise ConfigError(f"{place}: {label} must be {{min, max}} or {{values: [...]}}, got {describe(spec)}.")
    allowed = {"values"} if "values" in spec else {"min", "max", "scale"}
    for key in spec:
        if key not in allowed:
            raise ConfigError(f"{document.where((*path, key))}: {label} has no key '{key}'. {suggestion(key, allowed)}")
    return _parse_choice(spec, document, path) if "values" in spec else _parse_range(spec, document, path)


def _parse_range(spec: dict[str, Any], document: Document, path: KeyPath) -> Range:
    place, label = document.where(path), ".".join(map(str, path))
    for end in ("min", "max"):
        value = spec.get(end)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"{place}: {label}.{end} must be a finite number, got {describe(value)}.")
    low, high, scale = spec["min"], spec["max"], spec.get("scale", "linear")
    if low >= high:
        raise ConfigError(f"{place}: {label}: min must be less than max, got min {low} and max {high}.")
    if scale not in ("linear", "log"):
        raise ConfigError(f"{place}: {label}.scale must be linear or log, got {describe(scale)}.")
    if scale == "log" and low <= 0:
        raise ConfigError(f"{place}: {label}.min must be > 0 on a log scale, got {low}.")
    return Range(low=low, high=high, is_log=scale == "log", is_integer=isinstance(low, int) and isinstance(high, int))


def _parse_choice(spec: dict[str, Any], document: Document, path: KeyPath) -> Choice:
    place, label = document.where(path), ".".join(map(str, path))
    values = spec["values"]
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{place}: {label}.values must be a list with at least one value, got {describe(values)}.")
    names = [value.get("name") if isinstance(value, dict) else value for value in values]
    options = []
    for index, value in enumerate(values):
        at = (*path, "values", index)
        if isinstance(value, dict):
            if "name" not in value:
                raise ConfigError(f"{document.where(at)}: {label}: an option must be a value or have a name.")
            nodes = {key: _parse_node(item, document, (*at, key)) for key, item in value.items() if _is_node(item)}
            constant = {key: item for key, item in value.items() if key not in nodes}
            options.append(Option(label=_label(constant, names), constant=constant, nodes=nodes))
        else:
            options.append(Option(label=label_of(value), constant=value))
    labels = [option.label for option in options]
    if any(label in labels[:index] for index, label in enumerate(labels)):
        raise ConfigError(f"{place}: {label}.values must not repeat an option, got {describe(labels)}.")
    return Choice(options=tuple(options))


def _label(constant: dict[str, Any], names: Sequence[Any]) -> str:
    """A component's name; with its constants if several options share the name."""
    name = str(constant["name"])
    if names.count(constant["name"]) == 1:
        return name
    fields = ", ".join(f"{key}={value}" for key, value in constant.items() if key != "name")
    return f"{name}({fields})" if fields else name
