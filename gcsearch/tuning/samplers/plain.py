"""Samplers that do not learn: random, grid, quasi-random."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from scipy.stats import qmc

from gcsearch.tuning.samplers.base import (
    History,
    RandomChooser,
    Recorder,
    SearchSampler,
    from_unit,
    nodes_of,
    search_samplers,
)
from gcsearch.tuning.space import Choice, Chooser, FixedChooser, Range


@search_samplers.register("random")
@dataclass(frozen=True, kw_only=True)
class RandomSampler(SearchSampler):
    """Independent random choices: the baseline every other sampler has to beat."""

    def chooser(self, history: History) -> Chooser:
        return RandomChooser(history.seed, history.number)


@search_samplers.register("grid")
@dataclass(frozen=True, kw_only=True)
class GridSampler(SearchSampler):
    """Every combination once, the last key fastest; the search ends when all are tried.

    Attributes:
        points: Values per range, from end to end on the range's scale; integer ranges with fewer have all of them.
    """

    points: int = 5

    def __post_init__(self) -> None:
        if self.points < 2:
            raise ValueError(f"points must be at least 2, got {self.points}")

    def chooser(self, history: History) -> Chooser | None:
        values = next(islice(self.combinations(history), history.number - history.num_given, None), None)
        return None if values is None else FixedChooser(values)

    def combinations(self, history: History) -> Iterator[dict[str, Any]]:
        """All combinations, as values by node name; parameters that exist only sometimes vary only then."""
        path: list[int] = []
        while True:
            counter = _Counter(path, self.points)
            recorder = Recorder(counter)
            history.space.choose(recorder, history.base)
            yield {name: value for name, (value, _) in recorder.drawn.items()}
            path = counter.indices
            while path and path[-1] + 1 == counter.counts[len(path) - 1]:
                path.pop()
            if not path:
                return
            path[-1] += 1


class _Counter:
    """Takes the values at given positions, and the first ones after them: one reading of an odometer."""

    def __init__(self, path: list[int], points: int) -> None:
        self.points = points
        self.path = path
        self.indices: list[int] = []
        self.counts: list[int] = []

    def _next(self, values: list[Any]) -> Any:
        depth = len(self.indices)
        self.indices.append(self.path[depth] if depth < len(self.path) else 0)
        self.counts.append(len(values))
        return values[self.indices[-1]]

    def number(self, name: str, node: Range) -> float:
        del name
        values = {from_unit(index / (self.points - 1), node): None for index in range(self.points)}
        return float(self._next(list(values)))

    def option(self, name: str, node: Choice) -> Any:
        del name
        return self._next([option.label for option in node.options])


@search_samplers.register("qmc")
@dataclass(frozen=True, kw_only=True)
class QuasiRandomSampler(SearchSampler):
    """Scrambled Sobol points: random, but more evenly spread. Best with 2^n trials.

    Every parameter has a dimension of its own, also one that exists only sometimes.
    """

    def chooser(self, history: History) -> Chooser:
        names = list(nodes_of(history.space))
        points = qmc.Sobol(len(names), scramble=True, rng=history.seed)
        skipped = history.number - history.num_given
        if skipped > 0:
            points.fast_forward(skipped)
        return UnitChooser(dict(zip(names, points.random(1)[0], strict=True)))


class UnitChooser:
    """Values at given positions in [0, 1).

    Args:
        units: Node name to position.
    """

    def __init__(self, units: dict[str, float]) -> None:
        self.units = units

    def number(self, name: str, node: Range) -> float:
        if node.is_integer and not node.is_log:  # every integer gets the same share
            return int(node.low) + int(self.units[name] * (node.high - node.low + 1))
        return from_unit(self.units[name], node)

    def option(self, name: str, node: Choice) -> Any:
        return node.options[int(self.units[name] * len(node.options))].label
