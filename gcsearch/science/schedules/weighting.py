"""How the loss of a pair of levels is weighted. To add one: a frozen dataclass with `@weightings.register("name")`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from gcsearch.registry import Component, Registry
from gcsearch.science.shapes import PerExample


class Weighting(Component, ABC):
    """Weight lambda of an interval in the loss."""

    @abstractmethod
    def weight(self, sigma_lower: PerExample, sigma_upper: PerExample) -> PerExample:
        """One weight per example, > 0."""


weightings: Registry[Weighting] = Registry("weighting")


@weightings.register("inverse_gap")
@dataclass(frozen=True, kw_only=True)
class InverseGap(Weighting):
    """lambda = 1 / (sigma_upper - sigma_lower). Source: iCT section 3.1; GC v1 Appendix B.

    Its mean grows with N (8 at N = 11, 1129 at N = 1281), so losses of different stages are not comparable.
    """

    def weight(self, sigma_lower: PerExample, sigma_upper: PerExample) -> PerExample:
        return 1 / (sigma_upper - sigma_lower)


@weightings.register("uniform")
@dataclass(frozen=True, kw_only=True)
class Unweighted(Weighting):
    """lambda = 1 (CM)."""

    def weight(self, sigma_lower: PerExample, sigma_upper: PerExample) -> PerExample:
        del sigma_upper
        return torch.ones_like(sigma_lower)
