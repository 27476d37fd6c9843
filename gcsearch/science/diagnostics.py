"""What a coupling does to training: the four measurements by which the GC papers explain why it helps.

- `gradient_variance`: how noisy the gradient is, at given weights.
- `transport_cost`: how far apart the end points of a path are.
- `ode_distance`: how far a pair's lower state is from where the flow would have led.
- `path_deviation`: how much a path's slope differs from the flow's, the proxy R of the gap to consistency distillation.

All are functions of pairs or gradients; who trains what to get them is up to the caller. The last two need a flow
(`gcsearch.science.flows`): a closed form where there is one, or a denoiser trained for the coupling in question.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from gcsearch.science.conversions import Estimate
from gcsearch.science.couplings import EndPoints
from gcsearch.science.flows import Flow
from gcsearch.science.objectives import Pairs
from gcsearch.science.preconditioning import per_example
from gcsearch.science.shapes import PerExample


def gradient_variance(gradients: Iterable[Sequence[Tensor]]) -> float:
    """Trace of the covariance of a batch's gradient, estimated between batches.

    V = 1 / (K - 1) sum_k ||g_k - mean g||^2

    This is the variance that an optimizer's step sees. Unbiased for every coupling, including those that pair or mix
    within a batch (optimal transport, the fixed number of generated examples), because whole batches are compared. For
    independent examples it is 1 / B of the trace of the per-example covariance. The GC papers name no estimator. V
    grows with the weight lambda, thus with the number of levels: compare at equal timesteps only.

    Args:
        gradients: K >= 2 gradients of the loss at the same weights, each from a batch of its own; each a sequence of
            one tensor per parameter. Taken one at a time, so that two gradients are in memory.

    Source: quantity of GC v1 section 4.2 (i) and Fig. 2; Welford's update for the sum.
    """
    count, mean, squares = 0, None, 0.0
    for parts in gradients:
        gradient = torch.cat([part.detach().flatten().double() for part in parts])
        count += 1
        if mean is None:
            mean = torch.zeros_like(gradient)
        before = gradient - mean
        mean += before / count
        squares += float(before @ (gradient - mean))
    if count < 2:
        raise ValueError(f"gradients must be at least 2, got {count}")
    return squares / (count - 1)


def transport_cost(ends: EndPoints) -> PerExample:
    """Squared distance between the end points of each path, ||x - z||^2.

    With generated end points at level sigma, its mean is c(sigma) = E ||f(x_sigma, sigma) - z||^2; with data as end
    points, the cost of independent coupling, c(0).

    Source: GC (ICML) Eq. 19.
    """
    return (ends.data - ends.noise).flatten(1).square().sum(1)


def ode_distance(pairs: Pairs, flow: Flow) -> PerExample:
    """Distance of each pair's lower state from one step of the flow that starts at its upper state.

    ||x_i - x_i^Phi||, x_i^Phi = x_{i+1} + (sigma_i - sigma_{i+1}) v(x_{i+1}, sigma_{i+1})

    Zero if the path follows the flow in a straight line. The flow is that of independent coupling, for every coupling.

    Source: GC v1 section 4.2 (iii), for any process.
    """
    lower, upper = pairs.states(flow.process)
    gap = per_example(pairs.sigma_lower - pairs.sigma_upper, upper)
    moved = upper + gap * flow.velocity(upper, pairs.sigma_upper)
    return (lower - moved).flatten(1).square().sum(1).sqrt()


def path_deviation(ends: EndPoints, sigma: PerExample, flow: Flow) -> PerExample:
    """Squared difference between the slope of each path at `sigma` and that of the flow, ||x' - v(x, sigma)||^2.

    Its mean is the proxy R(sigma) = E ||x' - v||^2, if `flow` is the flow of the coupling that made `ends`. With any
    other flow, and with a denoiser that has not converged, it is larger: the expected slope has the least mean square
    error. Independent coupling under the variance-exploding process has d std^2 / (std^2 + sigma^2) for one Gaussian.

    Args:
        ends: End points; generated ones must be predicted from states at `sigma`.
        sigma: Level of each path's state.
        flow: Flow of the coupling.

    Source: GC (ICML) Eq. 17.
    """
    level = flow.process.coefficients(sigma)
    noisy = flow.process.add_noise(ends.data, ends.noise, sigma)
    sample = Estimate(data=ends.data, noise=ends.noise, coefficients=level)
    return (sample.velocity - flow.velocity(noisy, sigma)).flatten(1).square().sum(1)
