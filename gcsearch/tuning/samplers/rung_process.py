"""What `auto` knows of a space: a Gaussian process over parameters and rungs."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FIT_POINTS = 64
"""Scores that the kernel is fitted to, those of the highest rungs first: the time of a fit grows with their cube."""

FIT_STEPS = 12
"""Steps of the fit; the priors are where it begins, so it may stop early."""

OFFSET_VARIANCE = 4.0
"""Prior variance of the mean of a rung, to that of all scores."""

ANCHORS = 32
"""Known places over which f is averaged."""

JITTER = 1e-6
"""Added to the diagonal, to that of all scores, so that equal trials leave the matrix positive definite."""

LENGTH, NOISE, SHARE, AMPLITUDE = 1.0, 1.5, 1.0, 0.5
"""Prior standard deviations of what is fitted: logarithms of lengths, noise and amplitudes, and logits of shares."""


@dataclass(frozen=True)
class Observed:
    """Scores as arrays.

    Attributes:
        features: (n, features) parameters in [0, 1].
        dimensions: (features,) the parameter that a feature belongs to, from 0: an option of a choice is a feature.
        rungs: (n,) index of the score's rung, from 0.
        scores: (n,) lower is better; comparable between rungs but for an offset.
        num_rungs: Rungs that there are.
    """

    features: Floats
    dimensions: Integers
    rungs: Integers
    scores: Floats
    num_rungs: int


@dataclass(frozen=True)
class Kernel:
    """Covariance of the scores of two trials at two rungs.

        cov(f_i(x), f_j(y)) = a_i a_j (w M(x, y; l) + (1 - w) c_(i+1) ... c_j M(x, y; l'))    for i <= j

    with M the Matern kernel of smoothness 5/2. What lasts from the first rung to the last and what passes have length
    scales of their own: a parameter that only sets how fast a training is matters early and not in the end. Rungs that
    agree with each other may all be wrong about the last one, so every rung has a kinship of its own with the next.

    Attributes:
        lengths: (2, dimensions) l and l'.
        noise: Variance of a score around f at the first rung; a_i^2 times as much at rung i.
        lasting: w in (0, 1).
        kinships: (rungs - 1,) c in (0, 1), from the second rung on.
        amplitudes: (rungs,) a, 1 at the first.
    """

    lengths: Floats
    noise: float
    lasting: float
    kinships: Floats
    amplitudes: Floats

    @classmethod
    def unpacked(cls, theta: Floats, num_dimensions: int) -> Kernel:
        """From the logarithms and logits that are fitted."""
        lengths, rest = np.exp(theta[: 2 * num_dimensions]), theta[2 * num_dimensions :]
        above = (len(rest) - 2) // 2
        shares = 1 / (1 + np.exp(-rest[1 : above + 2]))
        amplitudes = np.concatenate([[1.0], np.exp(rest[above + 2 :])])
        return cls(lengths.reshape(2, -1), math.exp(rest[0]), float(shares[0]), shares[1:], amplitudes)

    def relation(self, low: int, high: int) -> float:
        """Correlation of f at two rungs."""
        return self.lasting + (1 - self.lasting) * float(self.kinships[low:high].prod())

    def kin(self, left_rungs: Integers, right_rungs: Integers) -> Floats:
        """Correlation of what passes, between two lists of rungs, (m, n)."""
        steps = np.concatenate([[0.0], np.cumsum(-np.log(self.kinships))])
        return np.asarray(np.exp(-np.abs(steps[left_rungs][:, None] - steps[right_rungs][None, :])))

    def between(
        self, dimensions: Integers, left: Floats, left_rungs: Integers, right: Floats, right_rungs: Integers
    ) -> Floats:
        """Covariance of f at (m, features) and (n, features) places on their rungs, (m, n)."""
        lasting, passing = (
            _matern(_squares(left / lengths, right / lengths))[0] for lengths in self.lengths[:, dimensions]
        )
        mixed = self.lasting * lasting + (1 - self.lasting) * self.kin(left_rungs, right_rungs) * passing
        return np.asarray(self.amplitudes[left_rungs][:, None] * mixed * self.amplitudes[right_rungs][None, :])


class RungProcess:
    """Posterior of f at every rung, given scores.

        score of x at rung i = f_i(x) + b_i + noise

    b_i is the rung's own mean, integrated out: only the best trials come to the higher rungs, so their mean says
    nothing by itself. The kernel is the most probable one under priors that know neither rung nor parameter.

    Args:
        observed: What is known.

    Source: Kennedy and O'Hagan 2000 for levels of one code; Swersky et al. 2013 for kernels over tasks. That the
        passing part has length scales of its own, and the offsets, are ours.
    """

    def __init__(self, observed: Observed) -> None:
        self.observed = observed
        self.average = float(observed.scores.mean())
        self.scale = float(observed.scores.std()) or 1.0
        self.targets = (observed.scores - self.average) / self.scale
        loss, theta = likelihood(observed, self.targets)
        limits = [(at - 4, at + 4) for at in theta]
        found = minimize(loss, theta, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": FIT_STEPS})
        self.kernel = Kernel.unpacked(found.x, int(observed.dimensions.max()) + 1)
        self._condition(observed.features, observed.rungs)

    def _condition(self, features: Floats, rungs: Integers) -> None:
        """Prepare the posterior given `self.targets` at these places."""
        self._features, self._rungs = features, rungs
        matrix = self._covariance(features, rungs)
        matrix += OFFSET_VARIANCE * (rungs[:, None] == rungs[None, :])
        matrix[np.diag_indices_from(matrix)] += self.kernel.noise * self.kernel.amplitudes[rungs] ** 2 + JITTER
        self._root = cholesky(matrix, lower=True, check_finite=False)
        self._weights = cho_solve((self._root, True), self.targets, check_finite=False)

    def believing(self, features: Floats, rung: int) -> RungProcess:
        """The same process told that some places, which are under way, score at a rung what it expects there."""
        at = np.full(len(features), rung)
        offset = OFFSET_VARIANCE * (at[:, None] == self._rungs[None, :])
        believed = copy(self)
        expected = (self._covariance(features, at) + offset) @ self._weights
        believed.targets = np.concatenate([self.targets, expected])
        believed._condition(np.concatenate([self._features, features]), np.concatenate([self._rungs, at]))
        return believed

    def mean(self, features: Floats, rung: int) -> Floats:
        """Mean of f at a rung, without its offset, (m,), in units of the scores."""
        covariance = self._covariance(features, np.full(len(features), rung))
        return np.asarray(self.average + self.scale * (covariance @ self._weights))

    def posterior(self, features: Floats, rung: int) -> tuple[Floats, Floats]:
        """Mean and standard deviation of f at a rung, without its offset, (m,) each, in units of the scores.

        The deviation is that of f less its average over known places: what all places have in common, such as the
        offset of a rung that few have reached, does not tell one from another.

        Args:
            features: (m, features) where.
            rung: Index of the rung.
        """
        anchors = self._features[:ANCHORS]
        places, at = np.concatenate([features, anchors]), np.full(len(features) + len(anchors), rung)
        m, cross = len(features), self._covariance(places, at)
        half = solve_triangular(self._root, cross.T, lower=True, check_finite=False)
        prior = self.kernel.between(self.observed.dimensions, places, at, anchors, at[m:]).mean(axis=1)
        common = half[:, m:].mean(axis=1)
        shared = prior[:m] - common @ half[:, :m]
        average = float(prior[m:].mean() - common @ common)
        own = self.kernel.amplitudes[rung] ** 2 - (half[:, :m] ** 2).sum(axis=0)
        variance, cross = np.maximum(own - 2 * shared + average, JITTER), cross[:m]
        return self.average + self.scale * (cross @ self._weights), self.scale * np.sqrt(variance)

    def _covariance(self, features: Floats, rungs: Integers) -> Floats:
        """Of f at some places and at the known ones, (m, n)."""
        return self.kernel.between(self.observed.dimensions, features, rungs, self._features, self._rungs)


def likelihood(observed: Observed, targets: Floats) -> tuple[Callable[[Floats], tuple[float, Floats]], Floats]:
    """What the fit minimises, and where it begins: the priors' centres.

        1/2 y^T K^-1 y + 1/2 log det K + 1/2 |(theta - theta_0) / widths|^2

    Args:
        observed: What is known.
        targets: Its scores, of mean 0 and variance 1.

    Returns:
        A function of the parameters, in logarithms and logits, that gives this and its gradient; and theta_0.

    Source: Rasmussen and Williams 2006, equations 5.8 and 5.9.
    """
    chosen = np.argsort(-observed.rungs, kind="stable")[:FIT_POINTS]
    features, rungs, y = observed.features[chosen], observed.rungs[chosen], targets[chosen]
    n, d, above = len(chosen), int(observed.dimensions.max()) + 1, observed.num_rungs - 1
    squares = np.zeros((d, n * n))
    for column, dimension in enumerate(observed.dimensions):
        squares[dimension] += ((features[:, column, None] - features[None, :, column]) ** 2).ravel()
    is_same = rungs[:, None] == rungs[None, :]
    at_rung = (rungs[None, :] == np.arange(1, above + 1)[:, None]).astype(np.float64)
    is_above = rungs[None, :] >= np.arange(1, above + 1)[:, None]
    parted = (is_above[:, :, None] != is_above[:, None, :]).astype(np.float64).reshape(above, n * n)
    # half the diagonal of the cube: about as far apart as two random trials are
    begin = np.array([math.log(0.5 * math.sqrt(d))] * (2 * d) + [math.log(0.03), 0.0] + [0.0] * (2 * above))
    widths = np.array([LENGTH] * (2 * d) + [NOISE] + [SHARE] * (1 + above) + [AMPLITUDE] * above)

    def loss(theta: Floats) -> tuple[float, Floats]:
        kernel = Kernel.unpacked(theta, d)
        amplitude = kernel.amplitudes[rungs]
        (lasting, lasting_slope), (passing, passing_slope) = (
            _matern((one**-2 @ squares).reshape(n, n)) for one in kernel.lengths
        )
        outer, related = np.outer(amplitude, amplitude), kernel.kin(rungs, rungs)
        first, second = kernel.lasting * outer, (1 - kernel.lasting) * outer * related
        smooth, noise = first * lasting + second * passing, kernel.noise * amplitude**2
        root = cholesky(smooth + OFFSET_VARIANCE * is_same + np.diag(noise + JITTER), lower=True, check_finite=False)
        weights = cho_solve((root, True), y, check_finite=False)
        lower = np.tril(dpotri(root, lower=1)[0])
        inner = lower + np.tril(lower, -1).T - np.outer(weights, weights)  # twice the derivative by the matrix
        on_noise = np.diag(inner) * noise
        mixing = kernel.lasting * (1 - kernel.lasting) * float((inner * outer * (lasting - related * passing)).sum())
        fading = (1 - kernel.kinships) * (parted @ (inner * second * passing).ravel())
        by_rung = at_rung @ ((inner * smooth).sum(axis=1) + on_noise)
        by_length = (
            length**-2 * (squares @ (inner * part * slope).ravel())
            for length, part, slope in zip(kernel.lengths, (first, second), (lasting_slope, passing_slope), strict=True)
        )
        gradient = np.concatenate(
            [*(0.5 * one for one in by_length), 0.5 * np.array([on_noise.sum(), mixing]), 0.5 * fading, by_rung]
        )
        away = (theta - begin) / widths
        value = 0.5 * float(y @ weights) + float(np.log(np.diag(root)).sum()) + 0.5 * float(away @ away)
        return value, gradient + away / widths

    return loss, begin


def _squares(left: Floats, right: Floats) -> Floats:
    """Squared distances, (n, m)."""
    inner = left @ right.T
    return np.asarray(np.maximum((left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :] - 2 * inner, 0.0))


def _matern(squares: Floats) -> tuple[Floats, Floats]:
    """Matern kernel of smoothness 5/2 at squared distances, and -2 times its derivative by them."""
    root = np.sqrt(5 * squares)
    decay = np.exp(-root)
    return (1 + root + root**2 / 3) * decay, (5 / 3) * (1 + root) * decay
