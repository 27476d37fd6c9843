"""How a trial is called and coloured in MLflow: short names for what varies, names of runs, legal keys.

MLflow's pages show parameters in alphabetical order and start with the first ones. So what a study varies goes under
the short names ``mu``, ``lr``, ``timesteps``, and the whole configuration under a prefix that sorts behind them.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

CONFIG_PREFIX: Final = "z_config/"
"""Goes before the keys of the full configuration."""

MAX_KEY: Final = 250
MAX_PARAM: Final = 6000
MAX_TAG: Final = 8000
MAX_RUN_NAME: Final = 60

PALETTE: Final = (
    "#0078b4", "#ff0f00", "#7800ff", "#0fe1a5", "#781e2d", "#1e2da5", "#e1b4f0", "#96b45a",
    "#ffb400", "#780f69", "#ff5aff", "#4ba596", "#e12d69", "#a50000", "#873ce1", "#a5693c",
    "#c30fa5", "#2d9600", "#965a87", "#b4a578", "#2da5ff", "#9696c3", "#5a2d4b", "#3c00c3",
)  # fmt: skip
"""Colours of runs. Each is the one farthest from all before it in CIELab, where distances under normal sight count
once and those under simulated protanopia and deuteranopia 1.6 times, tritanopia 2.5 times (Machado et al. 2009);
lightness 25 to 80. Least distances (Delta E: normal, protan, deutan, tritan) of the first 12: 37.8,
26.5, 22.9, 15.4; of all 24: 21.4, 14.3, 14.0, 8.6."""

STUDY_COLOR: Final = "#4d4d4d"


def color(trial: str) -> str:
    """Colour of a trial, by its number."""
    digits = re.sub(r"\D", "", trial)
    return PALETTE[int(digits or 0) % len(PALETTE)]


def legal_key(key: str) -> str:
    """The nearest key that MLflow takes: letters, digits and ``_ - . / : space``, no empty or dotted path parts."""
    key = re.sub(r"[^\w./: -]", "_", key)[:MAX_KEY]
    return posixpath.normpath(key).lstrip("/.") or "_"


def short_names(keys: Collection[str]) -> dict[str, str]:
    """Short name of each dotted key: its last part, or ``process`` of ``process.name``; whole if two were equal."""
    short = {key: key.removesuffix(".name").rsplit(".", 1)[-1] for key in keys}
    taken = list(short.values())
    return {key: legal_key(name if taken.count(name) == 1 else key) for key, name in short.items()}


def varied_params(params: Mapping[str, Any], keys: Collection[str]) -> dict[str, str]:
    """What a trial varies, under short names, numbers to four digits; the exact ones are in the configuration.

    Args:
        params: Values by dotted key, as in the ledger.
        keys: All keys that the study varies, so that a name means the same in every trial.
    """
    names = short_names({*keys, *params})
    return {names[key]: number(value, digits=4) for key, value in params.items()}


def config_params(config: Mapping[str, Any]) -> dict[str, str]:
    """The whole configuration as flat parameters, e.g. ``z_config/optimizer.lr``."""
    return {
        legal_key(CONFIG_PREFIX + key): value if isinstance(value, str) else json.dumps(value)
        for key, value in _flatten(config, "")
    }


def run_name(trial: str, kind: str, params: Mapping[str, Any], seed: int) -> str:
    """Name of a run, e.g. ``0007 mu=0.31 ema exponential lion lr=1.2e-4``, cut at 60 characters."""
    words = [trial] if kind == "trial" else [trial, kind, f"seed={seed}"]
    for key, name in short_names(params).items():
        value = params[key]
        words.append(value if isinstance(value, str) else f"{name}={number(value, digits=3)}")
    name = words[0]
    for word in words[1:]:
        if len(name) + len(word) + 2 > MAX_RUN_NAME:
            return f"{name} …"
        name = f"{name} {word}"
    return name


def number(value: Any, *, digits: int) -> str:
    """A value as text; floats are rounded, ``1.2e-4`` rather than ``1.2e-04``.

    Just below 1 the difference from 1 is rounded instead: a decay of 0.999 is not 1.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        rest = 1 - abs(value)
        if 0 < rest < 0.1:
            return f"{value:.{digits - 1 - math.floor(math.log10(rest))}f}".rstrip("0")
        # %g would write 1.9e-4 as 0.00019.
        text = f"{value:.{digits - 1}e}" if 0 < abs(value) < 1e-3 else f"{value:.{digits}g}"
        return re.sub(r"(\.\d*?)0*e", r"\1e", re.sub(r"e([+-])0+(?=\d)", r"e\1", text)).replace(".e", "e")
    return json.dumps(value)


def _flatten(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flatten(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value
