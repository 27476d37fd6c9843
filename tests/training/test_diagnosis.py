"""Arms of a diagnosis: closed forms, the training that they are, and what they share."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

import pytest
import torch

from gcsearch.config import Experiment
from gcsearch.data import Dataset, Examples
from gcsearch.data.batches import Batches
from gcsearch.errors import ConfigError, TrialDiverged
from gcsearch.science.conversions import Estimate
from gcsearch.science.couplings import Generator, Independent
from gcsearch.science.flows import Flow
from gcsearch.science.objectives import Models
from gcsearch.science.oracles import (
    ExactConsistency,
    GaussianMixture,
    MixtureFlow,
    contraction,
    proxy_generator,
    proxy_independent,
    transport_cost,
)
from gcsearch.science.preconditioning import per_example
from gcsearch.science.process import VarianceExploding
from gcsearch.science.randomness import derive_seed, draw_step
from gcsearch.training import Trainer
from gcsearch.training.diagnosis import Arm, Diagnosis, DiagnosisSettings, coupling_named, generated_only
from gcsearch.training.step import Learner

QUICK = DiagnosisSettings(num_batches=2, denoiser_steps=3, num_levels=3)
MEAN, STD, PROCESS = torch.tensor([0.3, -0.8]), 0.5, VarianceExploding(sigma_min=0.02, sigma_max=5.0)


@pytest.fixture
def experiment(tiny, points) -> Experiment:
    """Points, ten steps, two evaluations."""
    return tiny(points, training={"num_images": 320}, evaluation={"every_images": 160})


def values(rows, quantity, coupling=None):
    """Values of one quantity, in order."""
    return [row.value for row in rows if row.quantity == quantity and coupling in (None, row.coupling)]


# Closed forms -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OneMode(Dataset):
    """One Gaussian mode, for which everything is known."""

    default_extractor = "coordinates"
    name = "one_mode"
    is_known: bool = True

    @property
    def event_shape(self):
        return (2,)

    def load(self):
        return Examples(GaussianMixture(means=MEAN[None], std=STD).sample(50_000, torch.Generator().manual_seed(0)))

    def ideal_flow(self, process):
        return MixtureFlow(process=process, data=GaussianMixture(means=MEAN[None], std=STD)) if self.is_known else None


class GeneratedFlow(Flow):
    """Flow of the paths between exactly generated end points: jointly normal, so linear in the state."""

    process = PROCESS

    def expectation(self, noisy, sigma):
        slope = per_example(contraction(sigma, STD, PROCESS.sigma_min), noisy)
        level = per_example(sigma, noisy)
        variance = (slope * STD).square() + ((1 + slope) * level).square()
        noise = (1 + slope) * level / variance * (noisy - MEAN)
        return Estimate(data=noisy - level * noise, noise=noise, coefficients=self.process.coefficients(sigma))


@pytest.fixture
def exact(tiny, points, monkeypatch):
    """Rows by level of a coupling whose predictor and flow are exact."""
    base = tiny(points, training={"batch_size": 20_000, "num_images": 20_000}, evaluation={"every_images": 20_000})

    def make(coupling):
        known = dataclasses.replace(base, data=OneMode(), process=PROCESS, coupling=coupling)
        diagnosis = Diagnosis(known, DiagnosisSettings(num_batches=2, num_levels=5))
        flow = GeneratedFlow() if isinstance(coupling, Generator) else diagnosis.exact_flow
        monkeypatch.setattr(Arm, "denoiser", lambda *_: flow)
        function = ExactConsistency(PROCESS, MEAN, STD)
        return list(Arm(diagnosis, known).level_rows(Models(online=function, ema=function)))

    return make


@pytest.mark.parametrize("coupling", [Independent(), Generator(mu=0.3)], ids=lambda value: value.name)
def test_an_arm_with_an_exact_predictor_has_the_closed_forms_at_every_level(exact, coupling):
    rows = exact(coupling)
    sigma = PROCESS.grid(6)[1:]
    is_generated = isinstance(coupling, Generator)  # with mu = 1, whatever the recipe's mu
    cost = transport_cost(sigma if is_generated else torch.zeros(5), MEAN, STD, PROCESS.sigma_min * is_generated)
    proxy = proxy_generator(sigma, STD, 2, PROCESS.sigma_min) if is_generated else proxy_independent(sigma, STD, 2)
    for quantity, expected in (("transport_cost", cost), ("path_deviation", proxy)):
        found = [row for row in rows if row["quantity"] == quantity]
        assert [row["sigma"] for row in found] == sigma.tolist()
        torch.testing.assert_close(torch.tensor([row["value"] for row in found]), expected, rtol=0.03, atol=0)
    if not is_generated:
        # x_i - x_i^Phi = gap (z - E[z | x]), normal with variance R / d in each of two dimensions: a Rayleigh mean.
        distance = torch.tensor([row["value"] for row in rows if row["quantity"] == "ode_distance"])
        expected = PROCESS.grid(6).diff() * (proxy / 2).sqrt() * math.sqrt(math.pi / 2)
        torch.testing.assert_close(distance, expected, rtol=0.03, atol=0)
    known = [row["value"] for row in rows if row["quantity"] == "exact_path_deviation"]
    assert known == ([] if is_generated else [row["value"] for row in rows if row["quantity"] == "path_deviation"])


def test_generated_end_points_are_those_of_the_arms_averaged_weights(experiment):
    arm = Arm(Diagnosis(experiment, QUICK), dataclasses.replace(experiment, coupling=Generator(predictor="online")))
    learner = Learner(arm.experiment, arm.device)
    with torch.no_grad():
        for weight in learner.average.parameters():
            weight.add_(0.1)
    rows = {(row["quantity"], row["sigma"]): row["value"] for row in arm.level_rows(learner.models)}
    ema, grid = learner.models.ema, experiment.process.grid(QUICK.num_levels + 1)  # of the variance-exploding process
    for below, here in itertools.pairwise(grid.tolist()):
        lower, upper = (torch.full((arm.batch_size,), level) for level in (below, here))
        costs, distances = [], []
        for data, draws in arm.measured():
            costs.append((ema(data + here * draws.noise, upper) - draws.noise).square().sum(1))
            end = ema(data + below * draws.noise, lower)  # from the pair's lower level, as in training
            state = end + here * draws.noise
            step = state + (below - here) * arm.diagnosis.exact_flow.velocity(state, upper)
            distances.append((end + below * draws.noise - step).square().sum(1).sqrt())
        assert rows["transport_cost", here] == pytest.approx(float(torch.cat(costs).mean()), rel=1e-5)
        assert rows["ode_distance", here] == pytest.approx(float(torch.cat(distances).mean()), rel=1e-4)


# Gradient variance ------------------------------------------------------------------------------------------------


def test_the_gradient_variance_is_that_of_the_objective_at_the_arms_own_weights_and_step(experiment):
    """Recomputed with finite batches of its own drawing and the covariance of a matrix."""
    arm, step = Arm(Diagnosis(experiment, QUICK), experiment), 7
    learner = Learner(experiment, arm.device)
    row = next(iter(arm.training_rows(learner.models, step, 160)))
    seed = derive_seed(experiment.seed, "metric", 1)
    batches = Batches(arm.diagnosis.examples, arm.batch_size, seed)

    def gradient(number):
        draws = draw_step(seed, number, arm.batch_size, experiment.data.draw_source)
        loss = experiment.objective(experiment.recipe, learner.models, batches[number], draws, step, 10).loss
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(learner.network.parameters()))])

    matrix = torch.stack([gradient(number) for number in range(2)]).double()
    assert row == {
        "quantity": "gradient_variance",
        "value": pytest.approx(matrix.T.cov().trace().item(), rel=1e-6),
        "images": 160,
        "sigma": None,
    }


# Arms ---------------------------------------------------------------------------------------------------------------


def test_an_arm_is_the_training_that_the_trainer_does_and_is_measured_at_its_evaluations(experiment):
    arm = Arm(Diagnosis(experiment, QUICK), experiment)
    learner = Learner(experiment, arm.device)
    rows = list(arm.train(learner))
    trainer = Trainer(experiment)
    trainer.fit()
    for own, other in ((learner.network, trainer.learner.network), (learner.average, trainer.learner.average)):
        for name, weight in own.state_dict().items():
            torch.testing.assert_close(weight, other.state_dict()[name], rtol=0, atol=0)
    assert [(row["quantity"], row["images"]) for row in rows] == [
        (quantity, images) for images in (160, 320) for quantity in ("gradient_variance", "ode_distance")
    ]


def test_an_arm_is_the_same_every_time_and_another_seed_is_another_arm(experiment, unchanged_global_rng):
    first = Diagnosis(experiment, QUICK).arm("generator", 3)
    assert Diagnosis(experiment, QUICK).arm("generator", 3) == first
    other = Diagnosis(experiment, QUICK).arm("generator", 4)
    assert not set(values(first, "transport_cost")) & set(values(other, "transport_cost"))


def test_arms_of_a_seed_share_their_draws_so_a_generator_that_generates_nothing_is_independent_coupling(experiment):
    """Mu = 0 trains as independent coupling does; were any draw different, some number would be."""
    diagnosis = Diagnosis(dataclasses.replace(experiment, coupling=Generator(mu=0.0)), QUICK)
    independent, generator = diagnosis.arm("independent", 1), diagnosis.arm("generator", 1)
    for quantity in ("gradient_variance", "ode_distance"):
        trained = [row.value for row in independent if row.quantity == quantity and row.sigma is None]
        assert [row.value for row in generator if row.quantity == quantity and row.sigma is None] == trained
    assert values(independent, "transport_cost") != values(generator, "transport_cost")


def test_given_weights_are_measured_as_they_are(experiment):
    function = Learner(experiment, torch.device("cpu")).models.ema
    before = {name: value.clone() for name, value in function.network.state_dict().items()}
    diagnosis = Diagnosis(experiment, QUICK, weights=function)
    rows = [row for coupling in ("independent", "ot", "generator") for row in diagnosis.arm(coupling, 0)]
    for name, value in function.network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert {row.images for row in rows} == {None}
    assert len(values(rows, "gradient_variance")) == 3
    cost = {name: sum(values(rows, "transport_cost", name)) for name in ("independent", "ot")}
    assert cost["ot"] < cost["independent"]
    assert len(set(values(rows, "transport_cost", "ot"))) == 1  # the same end points at every level


def test_without_a_closed_form_one_denoiser_of_independent_coupling_is_the_flow_of_all_arms(experiment, monkeypatch):
    trained = []
    denoiser = Arm.denoiser

    def counted(self, coupling, models):
        trained.append(coupling.name)
        return denoiser(self, coupling, models)

    monkeypatch.setattr(Arm, "denoiser", counted)
    unknown = dataclasses.replace(experiment, data=OneMode(is_known=False))
    diagnosis = Diagnosis(unknown, QUICK)
    rows = diagnosis.arm("independent", 0) + diagnosis.arm("generator", 0)
    assert trained == ["independent", "generator"]
    assert values(rows, "exact_path_deviation") == []
    assert values(Diagnosis(unknown, QUICK).arm("generator", 0), "ode_distance") == values(
        rows, "ode_distance", "generator"
    )


def test_a_training_that_diverges_names_its_arm(tiny, points):
    experiment = tiny(points, optimizer={"lr": 1e30}, training={"num_images": 320}, evaluation={"every_images": 160})
    with pytest.raises(TrialDiverged, match=r"coupling ot, seed 2, step \d+: loss"):
        Diagnosis(experiment, QUICK).arm("ot", 2)


# Settings -----------------------------------------------------------------------------------------------------------


def test_the_generator_is_the_experiments_own_and_generates_everything_when_levels_are_measured(experiment):
    own = Generator(mu=0.3, base="ot", clamp=True, predictor="online", start=0.2)
    with_own = dataclasses.replace(experiment, coupling=own)
    assert coupling_named("generator", with_own) == own
    assert coupling_named("generator", dataclasses.replace(experiment, coupling=Independent())) == Generator()
    assert generated_only(own) == Generator(mu=1.0, base="ot", clamp=True, predictor="ema")
    assert generated_only(Independent()) == Independent()


def test_unknown_couplings_and_meaningless_settings_are_refused(experiment):
    with pytest.raises(ConfigError, match=r"coupling 'optimal' .* Known: generator, independent, ot"):
        coupling_named("optimal", experiment)
    for name, least in (("num_batches", 2), ("denoiser_steps", 1), ("num_levels", 1)):
        with pytest.raises(ValueError, match=f"{name} must be at least {least}, got {least - 1}"):
            DiagnosisSettings(**{name: least - 1})
