"""Plain specifications to components, with every value checked on the way in."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from gcsearch.config.documents import Document, KeyPath, describe
from gcsearch.errors import ConfigError, FieldError, suggestion
from gcsearch.registry import Component, kind_of, registries

S = TypeVar("S")

WORDS = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "string_type": "a word",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "json_invalid": "text that UTF-8 can hold",
}


def build(kind: str, spec: Any, document: Document | None = None, path: KeyPath = ()) -> Any:
    """Component of a kind from its specification: the way in, inverse of `gcsearch.registry.spec`.

    Args:
        kind: Kind of component, e.g. ``coupling``.
        spec: ``{"name": ..., field: value, ...}``, or just the name.
        document: Where the specification comes from, for messages.
        path: Where in the document.

    Returns:
        The component, with types coerced (1 to 1.0, lists to tuples) and values checked.

    Raises:
        ConfigError: Unknown name or field, wrong type, illegal value.
    """
    if kind not in registries:
        raise ConfigError(f"unknown kind of component '{kind}'. {suggestion(kind, registries)}")
    document, path = document or Document({}, kind), path
    label = ".".join(map(str, path)) or kind
    if isinstance(spec, str):
        spec = {"name": spec}
    if not isinstance(spec, dict):
        raise ConfigError(
            f"{document.where(path)}: {label} must be a {kind}'s name or a mapping with a name, got {describe(spec)}."
        )
    if "name" not in spec:
        raise ConfigError(f"{document.where(path)}: {label} must have a name. {suggestion('', registries[kind])}")
    name = spec["name"]
    if not isinstance(name, str):
        where = document.where((*path, "name"))
        raise ConfigError(f"{where}: {label}.name must be a word, got {describe(name)}.")
    try:
        cls = registries[kind][name]
    except ConfigError as error:
        raise ConfigError(f"{document.where((*path, 'name'))}: {label}: {error}") from None
    values = {key: value for key, value in spec.items() if key != "name"}
    return build_settings(cls, values, document, path, described_as=f"{kind} '{name}'")


def build_settings(
    cls: type[S], spec: Any, document: Document, path: KeyPath = (), described_as: str | None = None
) -> S:
    """Frozen dataclass from a mapping; fields that are components or settings are built in turn.

    Args:
        cls: The dataclass.
        spec: Field values.
        document: Where the values come from, for messages.
        path: Where in the document.
        described_as: What to call the mapping in messages, by default its dotted path.
    """
    label = ".".join(map(str, path))
    owner = described_as or (f"'{label}'" if label else document.source)
    if not isinstance(spec, dict):
        raise ConfigError(f"{document.where(path)}: {label} must be a mapping, got {describe(spec)}.")
    hints = _hints(cls)  # type: ignore[arg-type]  # every class is hashable
    for key in spec:
        if key not in hints:
            raise ConfigError(f"{document.where((*path, key))}: {owner} has no key {key!r}. {suggestion(key, hints)}")
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in spec:
            raise ConfigError(f"{document.where(path)}: {owner} must have the key '{field.name}', which is missing.")
    values = {
        key: _value(hints[key], _with_default_name(cls, key, value), document, (*path, key))
        for key, value in spec.items()
    }
    try:
        return cls(**values)
    except FieldError as error:
        at = (*path, *(int(part) if part.isdecimal() else part for part in error.field.split(".")))
        raise ConfigError(f"{document.where(at)}: {error}.") from None
    except ValueError as error:
        field_name = str(error).split(" ", 1)[0]
        at = (*path, field_name) if field_name in hints else path
        prefix = f"{label}." if label and field_name in hints else ""
        raise ConfigError(f"{document.where(at)}: {prefix}{error}.") from None


def _with_default_name(cls: type, key: str, value: Any) -> Any:
    """A component's section without a name means the default component: ``optimizer: {lr: 1e-3}`` is Lion's."""
    if not isinstance(value, dict) or "name" in value:
        return value
    factory = cls.__dataclass_fields__[key].default_factory  # type: ignore[attr-defined]
    default = None if factory is dataclasses.MISSING else factory()
    return {"name": default.name, **value} if isinstance(default, Component) else value


@cache
def _hints(cls: type) -> dict[str, Any]:
    """Type of each field, resolved."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _value(hint: Any, value: Any, document: Document, path: KeyPath) -> Any:
    """One field's value: a component, settings, a list of components, or a scalar checked against its type."""
    if kind := kind_of(hint):
        return build(kind, value, document, path)
    if (option := _optional(hint)) and (kind := kind_of(option)):
        return None if value is None else build(kind, value, document, path)
    if dataclasses.is_dataclass(hint):
        return build_settings(hint, value, document, path)  # type: ignore[arg-type]
    arguments = get_args(hint)
    if get_origin(hint) is tuple and arguments and (kind := kind_of(arguments[0])):
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(build(kind, item, document, (*path, index)) for index, item in enumerate(items))
    try:
        result = _adapter(hint).validate_json(json.dumps(_whole_numbers(value)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        rule = _rule(first, hint)
        label = ".".join(map(str, path))
        raise ConfigError(f"{document.where(path)}: {label} must be {rule}, got {describe(value)}.") from None
    numbers = result if isinstance(result, tuple) else (result,)
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        label = ".".join(map(str, path))
        raise ConfigError(f"{document.where(path)}: {label} must be finite, got {describe(value)}.")
    return result


def _optional(hint: Any) -> Any:
    """X of the hint ``X | None``; None for any other hint."""
    options = [option for option in get_args(hint) if option is not type(None)]
    is_optional = get_origin(hint) in (Union, types.UnionType) and len(options) + 1 == len(get_args(hint))
    return options[0] if is_optional and len(options) == 1 else None


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def _whole_numbers(value: Any) -> Any:
    """5e5 is written as a float and meant as an integer; a field of type float takes an integer just as well."""
    if isinstance(value, float) and math.isfinite(value) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, list | tuple):
        return [_whole_numbers(item) for item in value]
    return value


def _rule(error: Any, hint: Any) -> str:
    """What a value must be, in words, from pydantic's error and the field's type."""
    if get_origin(hint) in (Union, types.UnionType):
        options = [_type_words(option) for option in get_args(hint)]
        return " or ".join(options)
    if error["type"] == "literal_error":
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    if error["type"] in ("missing", "too_long", "too_short"):
        return _type_words(hint)
    if error["loc"]:
        return f"{_type_words(hint)} ({error['msg'].lower()})"
    return WORDS.get(error["type"]) or str(error["msg"]).lower()


def _type_words(hint: Any) -> str:
    if get_origin(hint) is tuple:
        arguments = get_args(hint)
        return "a list of numbers" if Ellipsis in arguments else f"a list of {len(arguments)} numbers"
    return {int: "an integer", float: "a number", str: "a word", bool: "true or false", type(None): "null"}.get(
        hint, str(hint)
    )
