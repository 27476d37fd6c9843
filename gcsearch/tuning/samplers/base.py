"""What a sampler is and what it sees."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from gcsearch.config import Document
from gcsearch.registry import Component, Registry
from gcsearch.tuning.space import Choice, Chooser, FixedChooser, Node, Params, Range, Space, parameter_key

Drawn = dict[str, tuple[Any, Node]]
"""Value and node behind every unique node name that a trial drew."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What is known of one trial.

    Attributes:
        drawn: Value and node of every choice that was made, by the node's unique name.
        scores: Score at each rung reached, by images; lower is better, infinite for a diverged trial. Of several
            objectives, the trial's place among all at that rung (`gcsearch.pareto.places`), as a share of them.
        is_running: Whether more may come.
        losses: All objectives at each rung, lower is better; empty where `scores` is the only one.
    """

    drawn: Drawn
    scores: dict[int, float]
    is_running: bool
    losses: dict[int, tuple[float, ...]] = field(default_factory=dict)

    @cached_property
    def units(self) -> dict[str, float]:
        """Every choice as a number: position in [0, 1] of a range, index of an option."""
        return {name: unit_of(value, node) for name, (value, node) in self.drawn.items()}


@dataclass(frozen=True, kw_only=True)
class History:
    """All that a suggestion may depend on.

    Attributes:
        space: What may vary.
        base: The experiment that the space varies.
        observations: Earlier trials, in order.
        rungs: Images of all rungs, increasing; the last one is the horizon.
        seed: Seed of the search.
        number: Number of the trial to suggest; with the seed it fixes every random choice.
        num_given: Trials at the beginning whose parameters the user gave.
        num_objectives: Objectives of the study.
        within: Key inside which trials are compared before the horizon; None compares all.
    """

    space: Space
    base: Document
    observations: Sequence[Observation]
    rungs: Sequence[int]
    seed: int
    number: int
    num_given: int = 0
    num_objectives: int = 1
    within: str | None = None

    def group(self, trial: Observation) -> Any:
        """Value that a trial shares with those it is compared with."""
        return next((value for name, (value, _) in trial.drawn.items() if parameter_key(name) == self.within), None)

    def draw(self, chooser: Chooser) -> Drawn:
        """Everything that a chooser decides."""
        recorder = Recorder(chooser)
        self.space.choose(recorder, self.base)
        return recorder.drawn

    def generator(self, purpose: int) -> np.random.Generator:
        """Random numbers for one purpose of this trial."""
        return np.random.default_rng([self.seed, self.number, purpose])


class SearchSampler(Component, ABC):
    """A rule for suggesting parameters.

    Attributes:
        max_objectives: Objectives that it can search at the same time.
    """

    max_objectives: ClassVar[float] = math.inf

    @abstractmethod
    def chooser(self, history: History) -> Chooser | None:
        """Chooser for the trial `history.number`; None if there is nothing left to try."""

    def expected(self, history: History) -> Sequence[float] | None:
        """Score that is expected of each trial at the horizon; None if nothing can be said.

        The scores are only to be compared with each other: their unit is the sampler's own.
        """
        del history
        return None

    def check(self, space: Space, base: Document) -> None:
        """Refuse a space that the sampler cannot search.

        Raises:
            ValueError: It cannot; the text says why, and names a sampler that can.
        """


def check_sampler(sampler: SearchSampler, space: Space, base: Document, num_objectives: int) -> None:
    """Nothing, if a sampler can search a space for so many objectives.

    Raises:
        ValueError: It cannot; the text says why, and names a sampler that can.
    """
    if num_objectives > sampler.max_objectives:
        raise ValueError(f"sampler {sampler.name} takes one objective, got {num_objectives}. Use auto or nsga2.")
    sampler.check(space, base)


search_samplers: Registry[SearchSampler] = Registry("search sampler")


class RandomChooser:
    """Uniform choices, log-uniform on log ranges."""

    def __init__(self, seed: int, number: int) -> None:
        self.random = np.random.default_rng([seed, number])

    def number(self, name: str, node: Range) -> float:
        del name
        if node.is_integer and not node.is_log:
            return int(self.random.integers(int(node.low), int(node.high), endpoint=True))
        return from_unit(float(self.random.random()), node)

    def option(self, name: str, node: Choice) -> Any:
        del name
        return node.options[int(self.random.integers(len(node.options)))].label


class Recorder:
    """Wraps a chooser and remembers the value and node of every name it was asked for."""

    def __init__(self, chooser: Chooser) -> None:
        self.chooser = chooser
        self.drawn: Drawn = {}

    def number(self, name: str, node: Range) -> float:
        value = self.chooser.number(name, node)
        self.drawn[name] = (value, node)
        return value

    def option(self, name: str, node: Choice) -> Any:
        value = self.chooser.option(name, node)
        self.drawn[name] = (value, node)
        return value


def from_unit(unit: float, node: Range) -> float:
    """Value of a range at a position in [0, 1], on the range's scale."""
    if node.is_log:
        low, high = math.log(node.low), math.log(node.high)
        value = math.exp(low + unit * (high - low))
    else:
        value = node.low + unit * (node.high - node.low)
    value = min(max(value, node.low), node.high)
    return round(value) if node.is_integer else value


def to_unit(value: float, node: Range) -> float:
    """Position in [0, 1] of a value of a range: the inverse of `from_unit`."""
    if node.is_log:
        return math.log(value / node.low) / math.log(node.high / node.low)
    return (value - node.low) / (node.high - node.low)


def unit_of(value: Any, node: Node) -> float:
    """Position in [0, 1] of a value of a range, index of an option of a choice."""
    if isinstance(node, Choice):
        return float(next(index for index, option in enumerate(node.options) if option.label == value))
    return to_unit(value, node)


def drawn_from(space: Space, base: Document, params: Params) -> Drawn:
    """The choices behind a trial's flat parameters."""
    recorder = Recorder(FixedChooser(params))
    space.choose(recorder, base)
    return recorder.drawn


def nodes_of(space: Space) -> dict[str, Node]:
    """Every node of the tree by its unique name, whether or not a trial has it."""
    nodes: dict[str, Node] = {}

    def walk(node: Node, name: str) -> None:
        nodes[name] = node
        for option in node.options if isinstance(node, Choice) else ():
            for key, child in option.nodes.items():
                walk(child, f"{name}[{option.label}].{key}")

    for entry in space.in_order():
        walk(entry.node, entry.key)
    return nodes


def is_conditional(space: Space) -> bool:
    """Whether some parameters exist only if others have certain values."""
    return any(entry.when for entry in space.entries) or len(nodes_of(space)) > len(space.entries)
