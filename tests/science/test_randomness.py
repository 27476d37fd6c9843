"""Random numbers as pure functions of seed, stream and position."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import torch

from gcsearch.science.randomness import (
    LATENT_BLOCK,
    STREAMS,
    derive_seed,
    draw_diagnostics,
    draw_step,
    evaluation_latents,
    generator,
)


def normal(num, stream):
    return torch.randn(num, 2, generator=stream)


def test_seeds_equal_the_recorded_ones(golden):
    for row in golden("randomness")["seeds"]:
        assert derive_seed(row["seed"], row["stream"], *row["position"]) == row["value"]


def test_draws_of_a_step_equal_the_recorded_ones(golden):
    recorded = golden("randomness")["step"]
    draws = draw_step(recorded["seed"], recorded["step"], 4, normal)
    torch.testing.assert_close(draws.noise, torch.tensor(recorded["noise"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(draws.level_uniforms, torch.tensor(recorded["level_uniforms"]), rtol=0, atol=1e-6)
    assert draws.selection.tolist() == recorded["selection"]
    assert draws.dropout_seed == recorded["dropout_seed"]


def test_latents_equal_the_recorded_ones(golden):
    recorded = golden("randomness")["latents"]
    latents = evaluation_latents(recorded["seed"], recorded["start"], recorded["stop"], normal)
    torch.testing.assert_close(latents, torch.tensor(recorded["values"]), rtol=0, atol=1e-6)


def test_seeds_are_the_same_in_another_process_with_another_hash_seed():
    program = "from gcsearch.science.randomness import derive_seed; print(derive_seed(3, 'training', 17, 2))"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(result.stdout) == derive_seed(3, "training", 17, 2)


def test_every_seed_stream_and_position_has_a_seed_of_its_own():
    positions = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0)]
    values = [derive_seed(seed, stream, *position) for seed in range(4) for stream in STREAMS for position in positions]
    assert len(set(values)) == len(values) == 4 * len(STREAMS) * len(positions)


def test_numbers_of_the_streams_are_never_changed():
    expected = {
        "initialization": 0,
        "data": 1,
        "training": 2,
        "dropout": 3,
        "evaluation": 4,
        "metric": 5,
        "diagnostics": 6,
    }
    assert {name: STREAMS[name] for name in expected} == expected


def test_neighbouring_steps_are_uncorrelated():
    draws = torch.stack([torch.randn(2_000, generator=generator(0, "training", step)) for step in range(6)])
    correlation = draws.corrcoef() - torch.eye(6)
    assert correlation.abs().max() < 5 / 2_000**0.5


@pytest.mark.usefixtures("unchanged_global_rng")
def test_draws_of_a_step_are_repeatable_and_well_formed():
    first, again = draw_step(0, 7, 500, normal), draw_step(0, 7, 500, normal)
    torch.testing.assert_close(vars(first), vars(again), rtol=0, atol=0)
    assert sorted(first.selection.tolist()) == list(range(500))
    assert first.noise.shape == (500, 2)
    assert first.level_uniforms.min() >= 0
    assert first.level_uniforms.max() < 1
    assert abs(first.level_uniforms.mean() - 0.5) < 5 * (1 / 12 / 500) ** 0.5


@pytest.mark.parametrize(("seed", "step"), [(0, 8), (1, 7)])
def test_draws_of_another_step_or_seed_differ_in_every_part(seed, step):
    first, other = draw_step(0, 7, 50, normal), draw_step(seed, step, 50, normal)
    assert (first.noise != other.noise).all()
    assert (first.level_uniforms != other.level_uniforms).all()
    assert first.selection.tolist() != other.selection.tolist()
    assert first.dropout_seed != other.dropout_seed


@pytest.mark.parametrize("cuts", [[0, 200], [0, 64, 128, 200], [0, 1, 63, 64, 65, 199, 200], [0, 50, 100, 150, 200]])
@pytest.mark.parametrize("stage", [0, 1])
def test_latents_do_not_depend_on_how_the_range_is_split(cuts, stage):
    whole = evaluation_latents(5, 0, 200, normal, stage)
    parts = [evaluation_latents(5, start, stop, normal, stage) for start, stop in itertools.pairwise(cuts)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)


@pytest.mark.usefixtures("unchanged_global_rng")
def test_latents_of_other_seeds_stages_and_blocks_are_other_numbers():
    first = evaluation_latents(5, 0, LATENT_BLOCK, normal)
    others = [
        evaluation_latents(6, 0, LATENT_BLOCK, normal),
        evaluation_latents(5, 0, LATENT_BLOCK, normal, 1),
        evaluation_latents(5, LATENT_BLOCK, 2 * LATENT_BLOCK, normal),
    ]
    assert all((first != other).all() for other in others)
    assert first.shape == (LATENT_BLOCK, 2)


def test_latents_look_standard_normal():
    latents = evaluation_latents(5, 0, 5_000, normal)
    torch.testing.assert_close(latents.mean(0), torch.zeros(2), rtol=0, atol=5 / 5_000**0.5)
    torch.testing.assert_close(latents.std(0), torch.ones(2), rtol=0, atol=5 / 10_000**0.5)


# Diagnostic batches -----------------------------------------------------------------------------------------------


def test_a_diagnostic_batch_depends_on_seed_and_number_and_draws_no_example_twice():
    (indices, draws), (again, same) = (draw_diagnostics(0, 3, 20, 50, normal) for _ in range(2))
    torch.testing.assert_close([again, *vars(same).values()], [indices, *vars(draws).values()], rtol=0, atol=0)
    assert len(set(indices.tolist())) == 20
    for seed, number in ((1, 3), (0, 4)):
        others, other = draw_diagnostics(seed, number, 20, 50, normal)
        assert (others != indices).any()
        assert (other.noise != draws.noise).any()
        assert (other.level_uniforms != draws.level_uniforms).any()
        assert other.dropout_seed != draws.dropout_seed


def test_a_diagnostic_batch_larger_than_the_data_repeats_every_example_alike():
    indices, _ = draw_diagnostics(0, 0, 25, 10, normal)
    counts = torch.bincount(indices, minlength=10)
    assert indices.shape == (25,)
    assert set(counts.tolist()) == {2, 3}


def test_a_diagnostic_batch_has_numbers_of_its_own():
    trained = draw_step(0, 0, 20, normal)
    _, draws = draw_diagnostics(0, 0, 20, 50, normal)
    assert (trained.noise != draws.noise).any()
    assert (trained.level_uniforms != draws.level_uniforms).any()
    assert trained.dropout_seed != draws.dropout_seed
