"""A space as a table of numbers: what a regression needs, for any tree of choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcsearch.tuning.samplers.base import Observation, from_unit
from gcsearch.tuning.space import Choice, FixedChooser, Node, Space

Floats = NDArray[np.float64]

ABSENT = 0.5
"""Feature of a range that a trial does not have: the middle, nearest to everything."""


class Encoding:
    """Every node of a space is a column: position in [0, 1] of a range, index of an option, NaN where a trial has none.

    Args:
        space: The space.
    """

    def __init__(self, space: Space) -> None:
        self.names: list[str] = []
        self.nodes: list[Node] = []
        self._parents: list[tuple[int, int]] = []  # column and option that a node hangs on; column -1 at the root
        for entry in space.in_order():
            self._add(entry.node, entry.key, (-1, 0))
        self.num_columns = len(self.nodes)
        self.num_options = np.array([len(node.options) if isinstance(node, Choice) else 0 for node in self.nodes])
        self.is_choice = self.num_options > 0
        self._steps = np.array([_step(node) for node in self.nodes])
        self.column_of_feature = np.repeat(np.arange(self.num_columns), np.maximum(self.num_options, 1))

    def _add(self, node: Node, name: str, parent: tuple[int, int]) -> None:
        column = len(self.nodes)
        self.names.append(name)
        self.nodes.append(node)
        self._parents.append(parent)
        for index, option in enumerate(node.options if isinstance(node, Choice) else ()):
            for key, child in option.nodes.items():
                self._add(child, f"{name}[{option.label}].{key}", (column, index))

    def table(self, observations: Sequence[Observation]) -> Floats:
        """(trials, columns) of known trials."""
        rows = [[one.units.get(name, np.nan) for name in self.names] for one in observations]
        return np.array(rows, dtype=np.float64).reshape(len(observations), self.num_columns)

    def features(self, table: Floats) -> Floats:
        """(trials, features): ranges as they are, one column of sqrt(1/2) or 0 for each option.

        So the squared distance between two options is 1, as between the ends of a range.
        """
        columns = []
        for column, num_options in enumerate(self.num_options):
            values = table[:, column]
            if num_options:
                columns += [np.where(values == index, np.sqrt(0.5), 0.0) for index in range(num_options)]
            else:
                columns.append(np.where(np.isnan(values), ABSENT, values))
        return np.stack(columns, axis=1)

    def without_absent(self, table: Floats) -> Floats:
        """The same rows with NaN below options that were not taken. Conditions of `when` are not looked at."""
        table = table.copy()
        for column, (parent, option) in enumerate(self._parents):
            if parent >= 0:
                table[table[:, parent] != option, column] = np.nan
        return table

    def uniform(self, random: np.random.Generator, count: int) -> Floats:
        """(count, columns) of random rows; every column has a value, whether or not its parents take it."""
        table = random.random((count, self.num_columns))
        table[:, self.is_choice] = np.floor(table[:, self.is_choice] * self.num_options[self.is_choice])
        return self._rounded(table)

    def near(self, random: np.random.Generator, centers: Floats, count: int) -> Floats:
        """Random changes of some rows: of few columns or of all, by widths from 0.6 % to 40 % of a range."""
        base = centers[random.integers(len(centers), size=count)]
        fresh = self.uniform(random, count)
        width = 10 ** random.uniform(-2.2, -0.4, (count, 1))
        share = np.where(random.random((count, 1)) < 0.5, 1.0, random.uniform(0.1, 0.6, (count, 1)))
        is_changed = random.random(base.shape) < share
        moved = np.abs(base + width * random.standard_normal(base.shape))  # reflected at 0 and 1
        moved = np.clip(np.minimum(moved, 2 - moved), 0, 1)
        is_flipped = is_changed & (random.random(base.shape) < np.minimum(0.5, width + 0.1))
        table = np.where(self.is_choice, np.where(is_flipped, fresh, base), np.where(is_changed, moved, base))
        return self._rounded(np.where(np.isnan(base), fresh, table))

    def _rounded(self, table: Floats) -> Floats:
        whole = self._steps > 0
        table[:, whole] = np.rint(table[:, whole] / self._steps[whole]) * self._steps[whole]
        return table

    def chooser(self, row: Floats) -> FixedChooser:
        """Chooser that takes the values of a row without NaN."""
        values: dict[str, Any] = {}
        for name, node, unit in zip(self.names, self.nodes, row.tolist(), strict=True):
            values[name] = node.options[int(unit)].label if isinstance(node, Choice) else from_unit(unit, node)
        return FixedChooser(values)


def _step(node: Node) -> float:
    """Distance between neighbouring integers of a linear range in [0, 1]; 0 for everything else."""
    is_whole = not isinstance(node, Choice) and node.is_integer and not node.is_log and node.high > node.low
    return 1 / (node.high - node.low) if is_whole and not isinstance(node, Choice) else 0.0

