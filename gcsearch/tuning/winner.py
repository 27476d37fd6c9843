"""What a winner does otherwise than a baseline: the factors of a path between them."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from gcsearch.config import Experiment
from gcsearch.errors import ConfigError
from gcsearch.registry import Component, plain

ASIDE: Final = ("name", "seed", "imports", "evaluation")
"""Parts of an experiment that are no part of the recipe, or that all arms share."""

SHARED: Final = ("num_images", "num_workers")
"""Of `training`: all arms have the baseline's."""


def factors_to(winner: Experiment, baseline: Experiment, source: str) -> dict[str, list[Any]]:
    """Dotted key to the winner's value, wherever it differs from the baseline's.

    Another component is one factor with all its settings; of the same component, each setting that differs is one.

    Args:
        winner: Where the path leads.
        baseline: Where it starts.
        source: Of the winner, for messages.

    Raises:
        ConfigError: The two differ in their data, or in nothing.
    """
    if plain(winner.data) != plain(baseline.data):
        raise ConfigError(
            f"{source}: the winner must be trained on the data of the baseline, {plain(baseline.data)}, got "
            f"{plain(winner.data)}."
        )
    factors: dict[str, list[Any]] = {}
    for field in dataclasses.fields(baseline):
        if field.name in ASIDE:
            continue
        old, new = getattr(baseline, field.name), getattr(winner, field.name)
        if isinstance(new, Component) and type(new) is not type(old):
            factors[field.name] = [_settings(new)]
            continue
        for setting in dataclasses.fields(new):
            value = plain(getattr(new, setting.name))
            if setting.name not in SHARED and value != plain(getattr(old, setting.name)):
                factors[f"{field.name}.{setting.name}"] = [value]
    if not factors:
        raise ConfigError(f"{source}: the winner must differ from the baseline, but is the same recipe.")
    return factors


def _settings(component: Component) -> dict[str, Any]:
    """A component's specification without the settings that have their default."""
    values = {
        field.name: plain(getattr(component, field.name))
        for field in dataclasses.fields(component)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING or plain(getattr(component, field.name)) != plain(field.default)
    }
    return {"name": component.name, **values}
