"""Distances between two network outputs, one number per example.

To add one: a frozen dataclass below with `@distances.register("name")`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from gcsearch.registry import Component, Registry
from gcsearch.science.shapes import Batch, PerExample


class Distance(Component, ABC):
    """A distance D(a, b) >= 0 with D(a, a) = 0."""

    @abstractmethod
    def __call__(self, first: Batch, second: Batch) -> PerExample:
        """Distance of each pair of examples."""


distances: Registry[Distance] = Registry("distance")


@distances.register("pseudo_huber")
@dataclass(frozen=True, kw_only=True)
class PseudoHuber(Distance):
    """Pseudo-Huber distance of the whole example.

    D(a, b) = sqrt(||a - b||^2 + C^2) - C, C = c sqrt(d)

    Quadratic for differences far below C, linear far above. Several public reproductions apply it per pixel, which is
    another loss.

    Attributes:
        c: Coefficient c > 0 of sqrt(d), where d is the number of scalars in an example.

    Source: iCT section 3.3; GC v1 Appendix B (c = 0.00054).
    """

    c: float = 0.00054

    def __post_init__(self) -> None:
        if not self.c > 0:
            raise ValueError(f"c must be > 0, got {self.c}")

    def __call__(self, first: Batch, second: Batch) -> PerExample:
        squares = (first - second).flatten(1).square().sum(1)
        offset = self.c * first[0].numel() ** 0.5
        # The formula, multiplied and divided by its conjugate: exactly 0 at a = b, accurate for small differences.
        distance: PerExample = squares / ((squares + offset**2).sqrt() + offset)
        return distance


@distances.register("pseudo_huber_elementwise")
@dataclass(frozen=True, kw_only=True)
class ElementwisePseudoHuber(Distance):
    """Pseudo-Huber distance of each scalar, summed over the example.

    D(a, b) = sum over j of (sqrt((a_j - b_j)^2 + C^2) - C), C = c sqrt(d)

    Another loss than `PseudoHuber`, which has one square root per example: here every scalar is bounded on its own, and
    a difference that is spread over d scalars stays quadratic sqrt(d) times longer. Several public reproductions of iCT
    use it (some with the mean); it is here for comparison with them, not with the papers.

    Attributes:
        c: Coefficient c > 0 of sqrt(d), where d is the number of scalars in an example.
    """

    c: float = 0.00054

    def __post_init__(self) -> None:
        if not self.c > 0:
            raise ValueError(f"c must be > 0, got {self.c}")

    def __call__(self, first: Batch, second: Batch) -> PerExample:
        squares = (first - second).flatten(1).square()
        offset = self.c * first[0].numel() ** 0.5
        distance: PerExample = (squares / ((squares + offset**2).sqrt() + offset)).sum(1)
        return distance


@distances.register("l2")
@dataclass(frozen=True, kw_only=True)
class SquaredL2(Distance):
    """Squared Euclidean distance ||a - b||^2, summed over the example (GC's Gaussian experiments)."""

    def __call__(self, first: Batch, second: Batch) -> PerExample:
        return (first - second).flatten(1).square().sum(1)


@distances.register("l1")
@dataclass(frozen=True, kw_only=True)
class L1(Distance):
    """Sum of absolute differences ||a - b||_1 over the example (CM)."""

    def __call__(self, first: Batch, second: Batch) -> PerExample:
        return (first - second).flatten(1).abs().sum(1)
