"""Samplers: which parameters to try next, as a pure function of what is known.

A suggestion depends on (space, seed, trial number, observations) only, so the sampler is rebuilt from the ledger at any
time and nothing of it is ever stored. To add one: a file here with a frozen dataclass decorated with
`@search_samplers.register("name")`.
"""

from gcsearch.registry import import_siblings
from gcsearch.tuning.samplers.base import (
    Drawn,
    History,
    Observation,
    RandomChooser,
    Recorder,
    SearchSampler,
    check_sampler,
    drawn_from,
    search_samplers,
)

import_siblings(__name__, __path__)

__all__ = [
    "Drawn",
    "History",
    "Observation",
    "RandomChooser",
    "Recorder",
    "SearchSampler",
    "check_sampler",
    "drawn_from",
    "search_samplers",
]
