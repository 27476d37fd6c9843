"""Number of levels, their proposal and their weight, against published numbers and independent formulas."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from gcsearch.science.process import VarianceExploding, karras_grid
from gcsearch.science.schedules import (
    Exponential,
    Fixed,
    InverseGap,
    Lognormal,
    SquareRoot,
    Uniform,
    Unweighted,
    interval_indices,
)

PAPER_COUNTS = [11, 21, 41, 81, 161, 321, 641, 1281]


def paper_grid(num_levels):
    return karras_grid(num_levels, 0.002, 80.0, 7.0)


@pytest.mark.parametrize("num_steps", [100_000, 150_000, 10_000, 2_000])
def test_curriculum_doubles_at_the_published_steps(num_steps, golden):
    published = golden("curriculum")
    stage_steps = published["stage_steps"][str(num_steps)]
    for stage, count in enumerate(published["num_levels"]):
        first, last = stage * stage_steps, (stage + 1) * stage_steps - 1
        assert Exponential().levels_at(first, num_steps) == count
        assert Exponential().levels_at(last, num_steps) == count


def test_curriculum_stays_at_its_cap_through_the_remainder_of_the_horizon():
    assert {Exponential().levels_at(step, 1_007) for step in range(125 * 8, 1_007)} == {1281}


def test_curriculum_depends_on_the_share_of_the_horizon():
    schedule = Exponential()
    assert [schedule.levels_at(round(share * 1_000), 1_000) for share in (0, 0.2, 0.55, 0.9)] == [
        schedule.levels_at(round(share * 64_000), 64_000) for share in (0, 0.2, 0.55, 0.9)
    ]


@pytest.mark.parametrize(
    ("s0", "s1", "expected"),
    [
        # K' = floor(1000 / (log2(s1 // s0) + 1)), by hand: 203, 247, 500, 1000
        (10, 150, [(0, 11), (202, 11), (203, 21), (406, 41), (609, 81), (811, 81), (812, 151), (999, 151)]),
        (3, 27, [(0, 4), (238, 4), (239, 7), (478, 13), (717, 25), (956, 28), (999, 28)]),
        (20, 40, [(0, 21), (499, 21), (500, 41), (999, 41)]),
        (30, 30, [(0, 31), (999, 31)]),
    ],
)
def test_curriculum_of_other_ratios_equals_the_formula_by_hand(s0, s1, expected):
    schedule = Exponential(s0=s0, s1=s1)
    assert [(step, schedule.levels_at(step, 1_000)) for step, _ in expected] == expected


@pytest.mark.parametrize(("s0", "s1"), [(10, 1280), (10, 150), (2, 150), (3, 20), (7, 7), (1, 64)])
def test_curriculum_starts_at_s0_and_ends_at_s1(s0, s1):
    schedule = Exponential(s0=s0, s1=s1)
    assert schedule.levels_at(0, 1_000) == s0 + 1
    assert schedule.levels_at(999, 1_000) == s1 + 1


def test_curriculum_of_a_horizon_shorter_than_its_stages_does_not_overflow():
    assert Exponential().levels_at(10**9, 3) == 1281


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 2), (1, 16), (10, 48), (25, 76), (50, 107), (75, 131), (100, 151)]
)
def test_square_root_schedule_equals_the_published_values(percent, expected):
    assert SquareRoot().levels_at(percent * 8_000, 800_000) == expected


@pytest.mark.parametrize(("s0", "s1"), [(2, 150), (2, 200), (10, 1280), (3, 2), (5, 9)])
@pytest.mark.parametrize("num_steps", [1, 7, 997, 1_000])
def test_square_root_schedule_equals_its_formula(s0, s1, num_steps):
    for step in range(num_steps + 1):
        square = step / num_steps * ((s1 + 1) ** 2 - s0**2) + s0**2
        # Less than any true distance to a whole number, more than the rounding of the root.
        expected = math.ceil(math.sqrt(square) - 1 - 1e-11) + 1
        assert SquareRoot(s0=s0, s1=s1).levels_at(step, num_steps) == expected


def test_square_root_schedule_stays_at_its_end_beyond_the_horizon():
    assert {SquareRoot().levels_at(step, 100) for step in (100, 101, 10**6)} == {151}


def test_fixed_number_of_levels_ignores_the_step():
    assert {Fixed(num_levels=7).levels_at(step, 100) for step in range(100)} == {7}


@pytest.mark.parametrize("num_levels", [2, 11, 321])
@pytest.mark.parametrize(("mean", "std"), [(-1.1, 2.0), (-0.8, 1.6), (0.5, 0.7)])
def test_lognormal_probabilities_equal_integrals_of_the_density(num_levels, mean, std):
    grid = paper_grid(num_levels)
    distribution = stats.norm(mean, std)
    logs = np.log(grid.double().numpy())
    masses = []
    for low, high in itertools.pairwise(logs):
        nodes, weights = np.polynomial.legendre.leggauss(60)
        centre, half = (high + low) / 2, (high - low) / 2
        masses.append(half * float(weights @ distribution.pdf(centre + half * nodes)))
    expected = torch.tensor(masses, dtype=torch.float64) / sum(masses)
    got = Lognormal(mean=mean, std=std).probabilities(grid)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-12)


def test_grid_covers_all_but_a_hundredth_of_the_published_lognormal():
    grid = paper_grid(11).double().log()
    covered = stats.norm.cdf(grid[-1], -1.1, 2.0) - stats.norm.cdf(grid[0], -1.1, 2.0)
    assert round(float(covered), 3) == 0.992
    # The probabilities are those of the covered part.
    first = (stats.norm.cdf(grid[1], -1.1, 2.0) - stats.norm.cdf(grid[0], -1.1, 2.0)) / covered
    torch.testing.assert_close(Lognormal().probabilities(paper_grid(11))[0].item(), float(first))


@pytest.mark.parametrize("num_levels", [81, 321, 1281])
def test_median_level_is_a_third(num_levels):
    grid = paper_grid(num_levels)
    index = int(torch.searchsorted(Lognormal().probabilities(grid).cumsum(0), 0.5))
    assert grid[index] < 0.34
    assert grid[index + 1] > 0.31


@pytest.mark.parametrize(("num_levels", "expected"), [(11, 8.4), (21, 17.5), (161, 141.0), (1281, 1129.0)])
def test_mean_weight_over_the_proposal_equals_the_published_numbers(num_levels, expected):
    grid = paper_grid(num_levels)
    mean = (Lognormal().probabilities(grid) * InverseGap().weight(grid[:-1], grid[1:])).sum().item()
    assert mean == pytest.approx(expected, rel=5e-3)


def test_range_of_the_weights_equals_the_published_numbers():
    grid = paper_grid(1281)
    probabilities, weight = Lognormal().probabilities(grid), InverseGap().weight(grid[:-1], grid[1:])
    assert weight.max().item() == pytest.approx(25_585, rel=1e-3)
    assert weight.min().item() == pytest.approx(2.9, rel=2e-2)
    assert probabilities.argmax() not in (0, len(probabilities) - 1)


def test_uniform_proposal_and_weight_are_flat():
    grid = paper_grid(5)
    torch.testing.assert_close(Uniform().probabilities(grid), torch.full((4,), 0.25, dtype=torch.float64))
    torch.testing.assert_close(Unweighted().weight(grid[:-1], grid[1:]), torch.ones(4))


def test_uniform_numbers_are_mapped_to_intervals_by_the_inverse_cumulative_distribution():
    probabilities = torch.tensor([0.25, 0.5, 0.25])
    uniforms = torch.tensor([0.0, 0.2, 0.25, 0.5, 0.7499, 0.75, 0.99])
    assert interval_indices(uniforms, probabilities).tolist() == [0, 0, 1, 1, 1, 2, 2]


def test_interval_of_zero_probability_is_never_drawn():
    assert interval_indices(torch.tensor([0.0, 0.4999, 0.5, 0.9]), torch.tensor([0.0, 0.5, 0.0, 0.5])).tolist() == [
        1,
        1,
        3,
        3,
    ]


@pytest.mark.parametrize("num_levels", [2, 11, 1281])
def test_largest_uniform_number_stays_inside_the_grid(num_levels):
    probabilities = Lognormal().probabilities(paper_grid(num_levels)).float()
    index = interval_indices(torch.tensor([1 - 2**-24]), probabilities)
    assert index.item() == num_levels - 2


def test_intervals_are_drawn_as_often_as_their_probability_says(rng):
    probabilities = Lognormal().probabilities(paper_grid(11))
    indices = interval_indices(torch.rand(100_000, generator=rng), probabilities.float())
    counts = torch.bincount(indices, minlength=10).numpy()
    assert stats.chisquare(counts, 100_000 * probabilities.numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("coarse", "fine"), [(11, 21), (41, 81), (161, 1281)])
def test_same_uniform_number_gives_corresponding_levels_on_grids_of_different_size(coarse, fine):
    process, uniforms = VarianceExploding(), torch.linspace(0.01, 0.99, 50)
    intervals = []
    for num_levels in (coarse, fine):
        grid = process.grid(num_levels)
        index = interval_indices(uniforms, Lognormal().probabilities(grid).float())
        intervals.append((grid[index], grid[index + 1]))
    (coarse_lower, coarse_upper), (fine_lower, fine_upper) = intervals
    assert (fine_lower <= coarse_upper).all()
    assert (coarse_lower <= fine_upper).all()


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (Fixed, {"num_levels": 1}, "num_levels must be at least 2, got 1"),
        (Exponential, {"s0": 0}, "s0 must be at least 1, got 0"),
        (Exponential, {"s0": 10, "s1": 9}, "s1 must be at least s0 = 10, got 9"),
        (SquareRoot, {"s0": 1}, "s0 must be at least 2, got 1"),
        (SquareRoot, {"s0": 10, "s1": 8}, "s1 must be at least s0 - 1 = 9, got 8"),
        (Lognormal, {"std": 0.0}, "std must be > 0, got 0.0"),
        (Lognormal, {"std": math.nan}, "std must be > 0, got nan"),
    ],
)
def test_meaningless_values_are_rejected_by_name(cls, values, message):
    with pytest.raises(ValueError, match=message):
        cls(**values)
