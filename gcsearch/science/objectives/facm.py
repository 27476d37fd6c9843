"""Flow-anchored consistency models: a consistency loss in continuous time, held by flow matching."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcsearch.science.objectives.base import Models, Recipe, check_slope, flow_ends, objectives
from gcsearch.science.objectives.prepared import PreparedBatch, TensorObjective
from gcsearch.science.preconditioning import ConsistencyFunction, per_example
from gcsearch.science.process import Process
from gcsearch.science.shapes import Batch, Conditions, DropoutSeed, PerExample, Scalar
from gcsearch.science.teachers import Teacher

Condition = Literal["expanded", "auxiliary"]


@objectives.register("facm")
@dataclass(frozen=True, kw_only=True)
class FlowAnchored(TensorObjective):
    """FACM: one network is the average velocity to the data and, told so, the velocity.

    On straight paths: u = b / (a + b) and x = noisy / (a + b) for any process, which are level and state themselves for
    ``linear``. With t = 1 - u from noise (0) to data (1), v = data - noise or the teacher's, F(x, c) the network or its
    preconditioned output, and the consistency function f(x, u) = x + (u - u_min) F(x, c_CM), times a + b at sigma_min:

    anchor: mean of (F(x, c_FM) - v)^2, plus `cosine` times 1 - cos of the angle between them over the channels
    consistency: mean of cos(pi t / 2) e / sg(e + c)^q, e = mean of (F(x, c_CM) - target)^2,
    target = sg F - (1 - t^p) clip(sg F - v - (u - u_min) dF/dt, -1, 1)

    dF/dt along the path is a forward-mode derivative. The network learns which of the two it is asked for from what it
    is told: ``expanded``: c_CM = t, c_FM = 2 - t; ``auxiliary``: c_CM = (t, 1), c_FM = (t, t), two conditions.

    The anchor's minimum is the flow E[v | x] if `cosine` is 0 or the slope is the teacher's; the cosine of single
    samples draws it towards the mean direction. Over one channel the cosine is a sign, without gradient. The level is
    continuous, drawn by the recipe's proposal; FACM's u = (2 / pi) arctan(e^n), n of mean -0.8 and std 1.6, is close to
    a lognormal one of mean -1.25 and std 1.6. Timesteps, weighting and distance of the recipe are not used.

    FACM's F is the network itself, which sees the state as it is, of variance between sigma_data^2 and 1. At u = 1 it
    must give back all of the noise that it sees, since f = x + F there. With `preconditioned` its input and target have
    unit variance instead, and f is (1 - u) sigma_data^2 / V x + u sigma_data / sqrt(V) network, up to u_min:

    F(x, c) = ((1 - u) sigma_data^2 - u) / V x + sigma_data / sqrt(V) network(x / sqrt(V), c),
    V = (1 - u)^2 sigma_data^2 + u^2

    Attributes:
        condition: How the network is told which velocity to give.
        preconditioned: Whether F is the network behind a skip connection, as above. FACM does without.
        slope: ``data`` or ``teacher``: what v is.
        teacher: Trained denoiser, for ``slope: teacher``.
        anchor: Weight of the anchor, >= 0. From scratch 0.1 or more; without it, training collapses.
        consistency: Weight of the consistency loss, >= 0; 0 leaves flow matching.
        cosine: Weight of the angle in the anchor, >= 0.
        relaxation: p, > 0.
        power: q, in [0, 1].
        c: c, > 0.

    Source: FACM (arXiv:2507.03738) and its published code, for x with u_min = 0. The preconditioning is EDM's argument
    (Table 1) for this velocity; it is this project's.
    """

    condition: Condition = "expanded"
    preconditioned: bool = False
    slope: Literal["data", "teacher"] = "data"
    teacher: Teacher | None = None
    anchor: float = 1.0
    consistency: float = 1.0
    cosine: float = 1.0
    relaxation: float = 0.5
    power: float = 0.5
    c: float = 1e-3

    def __post_init__(self) -> None:
        check_slope(self.slope, self.teacher, self.starts_from_teacher)
        for name in ("anchor", "consistency", "cosine"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.anchor == self.consistency == 0:
            raise ValueError("anchor must be > 0 where consistency is 0: there would be no loss")
        for name in ("relaxation", "c"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if not 0 <= self.power <= 1:
            raise ValueError(f"power must be in [0, 1], got {self.power}")

    @property
    def num_conditions(self) -> int:
        return 2 if self.condition == "auxiliary" else 1

    def function(self, network: nn.Module, process: Process, precision: str = "fp32") -> AnchoredFunction:
        return AnchoredFunction(
            network, process, precision, condition=self.condition, preconditioned=self.preconditioned
        )

    @property
    def forwards(self) -> int:
        """The anchor's forward and backward; the derivative and the student's forward and backward; a teacher's."""
        return 3 * (self.anchor > 0) + 5 * (self.consistency > 0) + (self.slope == "teacher")

    def loss(self, recipe: Recipe, models: Models, batch: PreparedBatch) -> Scalar:
        process, (sigma,), function, seed = recipe.process, batch.levels, models.online, batch.dropout_seed
        assert isinstance(function, AnchoredFunction)
        ends = batch.end_points(recipe, models)
        noisy = process.add_noise(ends.data, ends.noise, sigma)
        followed = flow_ends(models, ends, noisy, sigma, self.slope)
        state, position = function.straightened(noisy, sigma)
        velocity = followed.data - followed.noise
        loss = torch.zeros((), dtype=noisy.dtype, device=noisy.device)
        if self.anchor > 0:
            loss = loss + self.anchor * self.anchored(function, state, position, velocity, seed).mean()
        if self.consistency > 0:
            loss = loss + self.consistency * self.consistent(function, state, position, velocity, seed).mean()
        return loss

    def anchored(
        self, function: AnchoredFunction, state: Batch, position: PerExample, velocity: Batch, seed: DropoutSeed
    ) -> PerExample:
        """The flow-matching loss of each example."""
        output = function.velocity(state, position, seed)
        squares = (output - velocity).flatten(1).square().mean(1)
        if self.cosine == 0:
            return squares
        angles = 1 - functional.cosine_similarity(output, velocity, dim=1)
        return squares + self.cosine * angles.flatten(1).mean(1) if angles.ndim > 1 else squares + self.cosine * angles

    def consistent(
        self, function: AnchoredFunction, state: Batch, position: PerExample, velocity: Batch, seed: DropoutSeed
    ) -> PerExample:
        """The consistency loss of each example."""
        average, gap = average_velocity_gap(function, state, position, velocity, seed)
        time = 1 - position
        relaxed = 1 - time.clamp_min(0) ** self.relaxation
        target = average - per_example(relaxed, state) * gap.clamp(-1, 1)
        output = function.average_velocity(state, position, seed)
        errors = (output - target).flatten(1).square().mean(1)
        return (math.pi / 2 * time).cos() * errors / (errors.detach() + self.c) ** self.power


class AnchoredFunction(ConsistencyFunction):
    """f(x, u) = x + (u - u_min) F(x, c_CM), and the velocity F(x, c_FM); see `FlowAnchored`.

    Args:
        network: Module of one condition for ``expanded``, of two for ``auxiliary``.
        process: Forward process; its own preconditioning is not used.
        precision: As in `ConsistencyFunction`.
        condition: How the network is told which velocity to give.
        preconditioned: Whether F is the network behind a skip connection.
    """

    def __init__(
        self,
        network: nn.Module,
        process: Process,
        precision: str = "fp32",
        *,
        condition: Condition = "expanded",
        preconditioned: bool = False,
    ) -> None:
        super().__init__(network, process, precision)
        self.condition = condition
        self.preconditioned = preconditioned
        end = process.coefficients(torch.tensor([process.sigma_min], dtype=torch.float64))
        self.end_size = float(end.data + end.noise)
        self.end_position = float(end.noise) / self.end_size

    def __call__(self, noisy: Batch, sigma: PerExample, dropout_seed: int | DropoutSeed | None = None) -> Batch:
        state, position = self.straightened(noisy, sigma)
        left = per_example(position - self.end_position, state)
        estimate: Tensor = self.end_size * (state + left * self.average_velocity(state, position, dropout_seed))
        return estimate

    def straightened(self, noisy: Batch, sigma: PerExample) -> tuple[Batch, PerExample]:
        """The same point on the straight path between its end points: state (1 - u) data + u noise, and u."""
        level = self.process.coefficients(sigma)
        size = level.data + level.noise
        return noisy / per_example(size, noisy), level.noise / size

    def velocity(self, state: Batch, position: PerExample, dropout_seed: int | DropoutSeed | None = None) -> Batch:
        """Velocity by t = 1 - u at a straightened state, towards the data: what the anchor trains."""
        time = 1 - position
        told = 2 - time if self.condition == "expanded" else torch.stack([time, time], dim=1)
        return self.scaled_output(state, position, told, dropout_seed)

    def average_velocity(
        self, state: Batch, position: PerExample, dropout_seed: int | DropoutSeed | None = None
    ) -> Batch:
        """Average velocity from a straightened state to the data: what f is made of."""
        time = 1 - position
        told = time if self.condition == "expanded" else torch.stack([time, torch.ones_like(time)], dim=1)
        return self.scaled_output(state, position, told, dropout_seed)

    def scaled_output(
        self, state: Batch, position: PerExample, told: Conditions, dropout_seed: int | DropoutSeed | None
    ) -> Batch:
        """F(x, c): the network's output, or c_skip x + c_out network(c_in x, c)."""
        if not self.preconditioned:
            return self.output(state, told, dropout_seed)
        variance, kept = self.process.sigma_data**2, 1 - position
        scale = (kept.square() * variance + position.square()).rsqrt()
        skip, out = (kept * variance - position) * scale.square(), self.process.sigma_data * scale
        output = self.output(per_example(scale, state) * state, told, dropout_seed)
        velocity: Tensor = per_example(skip, state) * state + per_example(out, state) * output
        return velocity


def average_velocity_gap(
    function: AnchoredFunction,
    state: Batch,
    position: PerExample,
    velocity: Batch,
    dropout_seed: int | DropoutSeed | None = None,
) -> tuple[Batch, Batch]:
    """F(x, c_CM), and how far it is from v + (u - u_min) dF/dt; both without gradient.

    The gap is minus df/dt along a straight path of slope v by t: zero for the exact consistency function of a flow.
    """
    with torch.no_grad():
        average, change = torch.func.jvp(  # type: ignore[misc]  # three values only where `has_aux` asks for them
            lambda at, where: function.average_velocity(at, where, dropout_seed),
            (state, position),
            (velocity, -torch.ones_like(position)),
        )
    return average, average - velocity - per_example(position - function.end_position, state) * change
