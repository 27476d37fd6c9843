"""Components and the tables that name them.

A component is a frozen, keyword-only dataclass whose fields are its hyperparameters. Each kind (coupling,
objective, ...) has one `Registry`, created beside the kind's abstract class; a final class enters it with a
decorator. `gcsearch.config.build` goes from a name and values to a component, `spec` goes back.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from gcsearch.errors import ConfigError, suggestion

T = TypeVar("T")

registries: dict[str, Registry[Any]] = {}
"""All registries by kind, e.g. ``registries["coupling"]``. Filled as the kinds' modules are imported."""


class Component:
    """Base of all component kinds.

    Attributes:
        kind: Kind of component, set by the kind's abstract class, e.g. ``coupling``.
        name: Registered name, set by the registry, e.g. ``generator``.
    """

    kind: ClassVar[str]
    name: ClassVar[str]

    def files(self) -> dict[str, Path]:
        """Files outside the package that the component reads, and where they are, or would be, on this machine.

        They travel with a training to machines without them; there, the component finds them by asking
        `gcsearch.files.supplied` for the same names first.
        """
        return {}


class Registry(Generic[T]):
    """Table of one kind: registered name -> component class.

    Args:
        kind: Word for the kind in messages and in experiment files, e.g. ``coupling``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}
        registries[kind] = self

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator that enters a component under `name` and stores the name on the class."""

        def enter(cls: type[T]) -> type[T]:
            if name in self._classes:
                raise ValueError(f"{self.kind} '{name}' is registered twice: {self._classes[name]} and {cls}.")
            cls.kind = self.kind  # type: ignore[attr-defined]
            cls.name = name  # type: ignore[attr-defined]
            self._classes[name] = cls
            return cls

        return enter

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._classes:
            raise ConfigError(f"unknown {self.kind} {name!r}. {suggestion(name, self._classes)}")
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def holds(self, base: type) -> bool:
        """Whether the components of this registry are subclasses of `base`."""
        return any(issubclass(cls, base) for cls in self._classes.values())

    def __len__(self) -> int:
        return len(self._classes)


def kind_of(base: type) -> str | None:
    """Kind whose components derive from the abstract class `base`, e.g. ``coupling`` for `Coupling`, or None."""
    if not (isinstance(base, type) and issubclass(base, Component)):
        return None
    return next((kind for kind, registry in registries.items() if registry.holds(base)), None)


def spec(component: Any) -> dict[str, Any]:
    """Plain data that describes a component: the way out, inverse of `gcsearch.config.build`.

    Args:
        component: A registered component, or a plain settings dataclass (which has no name).

    Returns:
        ``{"name": ..., field: value, ...}`` with only dicts, lists, numbers, strings, booleans and None.
    """
    values = {field.name: plain(getattr(component, field.name)) for field in dataclasses.fields(component)}
    name = getattr(type(component), "name", None)
    return {"name": name, **values} if isinstance(component, Component) else values


def plain(value: Any) -> Any:
    """Value with tuples as lists, mappings as dicts and components as their `spec`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return spec(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return value
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return value


def files_of(value: Any) -> dict[str, Path]:
    """Files of all components in a component, a settings dataclass or a sequence of them; see `Component.files`."""
    if isinstance(value, tuple | list):
        return {name: path for item in value for name, path in files_of(item).items()}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return {}
    own = value.files() if isinstance(value, Component) else {}
    return own | files_of([getattr(value, field.name) for field in dataclasses.fields(value)])


def import_siblings(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that one new file is all a new component takes."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
