"""A Gaussian process over parameters and rungs."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from gcsearch.tuning.samplers.encoding import Floats

SQRT5 = math.sqrt(5)
JITTER = 1e-6

DRIFT = 1.0
"""Variance, relative to the final scores', by which the level of all scores drifts from the first rung to the last."""

WEIGHT_OF_RANGE, WEIGHT_OF_CHOICE, WEIGHT_SIGMA = math.log(4.0), math.log(0.3), 1.5
BIAS, BIAS_SIGMA = math.log(2.0), 1.0
NOISE, NOISE_SIGMA = math.log(0.05), 1.0
"""Log-normal priors: inverse squared length scales, variance of the bias at the first rung and of the noise."""


class Surrogate:
    """Final score as a smooth function of the features, which earlier rungs show with a bias.

    y(x, u) = f(x) + g(x, u) + c(u) + noise,    u = log(horizon / images) / log(horizon / first rung) in [0, 1]

    f has a Matern kernel with one length scale per column of the space. g and c are Brownian in u, zero at the
    horizon: the further a rung is from the end, the less it says; how much less is learned. g has f's kind of kernel
    over x with length scales of its own, c is one curve for all trials and one for each group. Length scales, bias and
    noise are those of the highest posterior density, found from at most `max_fit` scores; the prediction uses all.

    Args:
        features: (scores, features) of the trial behind each score.
        columns: (features,) column of the space that each feature belongs to.
        is_choice: (columns,) whether a column is a choice.
        distance: (scores,) u of each score.
        groups: (scores,) group of each trial, inside which early scores are compared.
        values: (scores,) scores on one scale.
        random: Chooses the scores to fit to, if there are too many.
        max_fit: Most scores to fit to.

    Source: the autoregressive model of Kennedy and O'Hagan 2000 with the rungs as levels of fidelity; priors that grow
        with the number of columns as in Hvarfner et al. 2024 (arXiv:2402.02229).
    """

    def __init__(
        self,
        features: Floats,
        columns: NDArray[np.int64],
        is_choice: NDArray[np.bool_],
        distance: Floats,
        groups: NDArray[np.int64],
        values: Floats,
        *,
        random: np.random.Generator,
        max_fit: int,
    ) -> None:
        self.features, self.columns, self.distance, self.groups = features, columns, distance, groups
        self.num_columns = len(is_choice)
        crowding = 0.5 * math.log(max(self.num_columns / 4, 1))
        weights = np.where(is_choice, WEIGHT_OF_CHOICE, WEIGHT_OF_RANGE) - crowding
        self._mean = np.concatenate([weights, weights, [BIAS, NOISE]])
        self._sigma = np.concatenate([np.full(2 * self.num_columns, WEIGHT_SIGMA), [BIAS_SIGMA, NOISE_SIGMA]])
        chosen = _most_telling(distance, max_fit, random)
        found = self._fit(features[chosen], distance[chosen], groups[chosen], values[chosen])
        self.weights = np.exp(found[: self.num_columns])[columns]
        bias_weights = np.exp(found[self.num_columns : -2])[columns]
        bias, self.noise = math.exp(found[-2]), math.exp(found[-1])
        steps, level = _drift(distance, groups)
        covariance = matern(features, features, self.weights) + level
        covariance += bias * steps * matern(features, features, bias_weights)
        covariance[np.diag_indices(len(values))] += self.noise + JITTER
        factor = cholesky(covariance, lower=True, check_finite=False)
        self._solved = cho_solve((factor, True), values, check_finite=False)
        self.variance = max(float(values @ self._solved) / len(values), 1e-6)

    def mean(self, features: Floats) -> Floats:
        """Expected final score of some parameters."""
        return np.asarray(matern(features, self.features, self.weights) @ self._solved)

    def spread(self, features: Floats, tried: Floats) -> Floats:
        """Standard deviation of the final score, as if that of everything tried were known.

        Whether a trial goes on is the stopping rule's affair; what to try is something new.
        """
        covariance = matern(tried, tried, self.weights)
        covariance[np.diag_indices(len(tried))] += self.noise + JITTER
        factor = cholesky(covariance, lower=True, check_finite=False)
        rest = solve_triangular(factor, matern(tried, features, self.weights), lower=True, check_finite=False)
        return np.asarray(np.sqrt(self.variance * np.maximum(1 - (rest**2).sum(axis=0), 1e-12)))

    def _fit(self, features: Floats, distance: Floats, groups: NDArray[np.int64], values: Floats) -> Floats:
        """Logarithms of the weights of f, the weights of g, bias and noise."""
        count, num = len(values), self.num_columns
        by_feature = (features[:, None] - features[None]) ** 2
        squares = np.zeros((num, count * count))
        for feature, column in enumerate(self.columns):
            squares[column] += by_feature[:, :, feature].ravel()
        steps, level = _drift(distance, groups)
        one = np.eye(count)

        def loss(logs: Floats) -> tuple[float, Floats]:
            weights, bias_weights = np.exp(logs[:num]), np.exp(logs[num:-2])
            bias, noise = math.exp(logs[-2]), math.exp(logs[-1])
            kernel, slope = _matern_and_slope((weights @ squares).reshape(count, count))
            bias_kernel, bias_slope = _matern_and_slope((bias_weights @ squares).reshape(count, count))
            shown = bias * steps
            covariance = kernel + shown * bias_kernel + level + (noise + JITTER) * one
            factor = cholesky(covariance, lower=True, check_finite=False)
            inverse = cho_solve((factor, True), one, check_finite=False)
            solved = inverse @ values
            scale = max(float(values @ solved), 1e-12) / count
            off = (logs - self._mean) / self._sigma
            value = 0.5 * count * math.log(scale) + np.log(np.diag(factor)).sum() + 0.5 * (off**2).sum()
            inner = 0.5 * (inverse - np.outer(solved, solved) / scale)  # of the loss by the covariance
            by_bias = inner * shown
            gradient = np.concatenate(
                [
                    weights * (squares @ (inner * slope).ravel()),
                    bias_weights * (squares @ (by_bias * bias_slope).ravel()),
                    [(by_bias * bias_kernel).sum(), noise * np.trace(inner)],
                ]
            )
            return float(value), gradient + off / self._sigma

        bounds = [(-8.0, 8.0)] * (2 * num) + [(-6.0, 4.0), (-7.0, 1.0)]
        options = {"maxiter": 20, "maxfun": 30}
        return np.asarray(minimize(loss, self._mean, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x)


def matern(left: Floats, right: Floats, weights: Floats) -> Floats:
    """(n, m) Matern kernel of smoothness 5/2 between rows, with the given weight of each feature's squared distance."""
    left, right = left * np.sqrt(weights), right * np.sqrt(weights)
    squared = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2 * left @ right.T
    return _matern_and_slope(np.maximum(squared, 0.0))[0]


def _matern_and_slope(squared: Floats) -> tuple[Floats, Floats]:
    """Kernel at some squared distances, and its derivative by them."""
    distance = SQRT5 * np.sqrt(squared)
    decay = np.exp(-distance)
    return (1 + distance + distance**2 / 3) * decay, -5 / 6 * (1 + distance) * decay


def _drift(distance: Floats, groups: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Brownian covariance of distances from the horizon, and that of the level of all scores and of each group's."""
    steps = np.minimum(distance[:, None], distance[None])
    return steps, DRIFT * steps * (1.0 + (groups[:, None] == groups[None]))


def _most_telling(distance: Floats, most: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Half of what may be used are the scores nearest to the horizon, half a random draw of the others."""
    if len(distance) <= most:
        return np.arange(len(distance))
    order = np.argsort(distance, kind="stable")
    nearest, rest = order[: most // 2], order[most // 2 :]
    return np.concatenate([nearest, random.choice(rest, most - len(nearest), replace=False)])
