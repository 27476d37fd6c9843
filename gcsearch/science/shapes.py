"""Shape aliases. Letters: B examples in a batch, N noise levels, event the shape of one example.

The tests check them at run time (`--jaxtyping-packages` in pyproject.toml); production pays nothing.
"""

from jaxtyping import Bool, Float, Int, Int32, Int64, UInt8
from torch import Tensor

Batch = Float[Tensor, "B *event"]
"""A batch of examples, noise or network outputs."""

Images = Float[Tensor, "B C H W"]
"""A batch of images in [-1, 1]."""

ByteImages = UInt8[Tensor, "B C H W"]
"""A batch of images in 0..255."""

PerExample = Float[Tensor, "B"]
"""One number per example: noise level, coefficient, weight, distance."""

Conditions = Float[Tensor, "B *K"]
"""What a network is told per example: one number, (B,), or K of them, (B, K)."""

Grid = Float[Tensor, "N"]
"""Increasing noise levels."""

Probabilities = Float[Tensor, "M"]
"""One probability per interval of a grid, M = N - 1."""

Indices = Int[Tensor, "B"]
"""One index per example."""

Rows = Int[Tensor, "R"]
"""Indices of some examples of a batch."""

Scalar = Float[Tensor, ""]
"""A single number on the device."""

Mask = Bool[Tensor, "B *event"]
"""Which entries of a batch stay."""

Words = Int32[Tensor, "W"]
"""Random 32-bit words."""

DropoutSeed = Int64[Tensor, "..."]
"""Seed of the dropout masks of a forward pass, on the device: a number, or a number and then each row's number."""

SquareMatrix = Float[Tensor, "K K"]
"""A square matrix."""
