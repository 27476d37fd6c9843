"""A training from the outside: what it reports, when, at what cost, and what it leaves alone."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gcsearch.config import Experiment
from gcsearch.training import Trainer, load_checkpoint

TIMES = ("seconds", "per_second")


def scores(outcome):
    """All metrics of all results, without what depends on the clock."""
    return [
        (result.images, {name: value for name, value in result.metrics.items() if not name.endswith(TIMES)})
        for result in outcome.results
    ]


def weights(trainer):
    return {name: value.clone() for name, value in trainer.learner.network.state_dict().items()}


def differ(first, second):
    return any((first[name] != second[name]).any() for name in first)


# Rungs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "every", "batch"),
    [(2_000, 500, 32), (2_000, 500, 33), (1_000, 300, 7), (105, 100, 64), (200, 20, 64), (100, 100, 100), (64, 64, 1)],
)
def test_results_come_at_exactly_the_rungs_as_soon_as_they_are_reached(tiny, digits, images, every, batch):
    experiment = tiny(training={"num_images": images, "batch_size": batch}, evaluation={"every_images": every})
    reported = []
    trainer = Trainer(experiment, examples=digits, report=reported.append)
    outcome = trainer.fit()
    assert (outcome.state, outcome.reason) == ("completed", None)
    assert tuple(reported) == outcome.results
    assert tuple(result.images for result in reported) == experiment.rungs
    assert [result.metrics["cost/step"] for result in reported] == [
        math.ceil(rung / batch) for rung in experiment.rungs
    ]
    assert trainer.step == experiment.training.num_steps


def test_two_rungs_reached_by_one_step_have_the_same_scores_and_losses(tiny, digits):
    experiment = tiny(training={"num_images": 105, "batch_size": 64}, evaluation={"every_images": 100})
    (_, first), (_, second) = scores(Trainer(experiment, examples=digits).fit())
    assert first == second
    assert first["train/loss"] > 0


def test_losses_of_a_result_are_means_over_the_steps_since_the_one_before(tiny, digits):
    experiment = tiny(training={"num_images": 1_000}, evaluation={"every_images": 500})
    losses, norms, trainer = [], [], Trainer(experiment, examples=digits)
    step = trainer.learner.step

    def watched(*arguments):
        report = step(*arguments)
        losses.append(float(report.loss))
        norms.append(float(report.grad_norm))
        return report

    trainer.learner.step = watched
    first, second = trainer.fit().results
    for values, name in ((losses, "train/loss"), (norms, "train/grad_norm")):
        assert first.metrics[name] == pytest.approx(sum(values[:16]) / 16, rel=1e-12)
        assert second.metrics[name] == pytest.approx(sum(values[16:]) / 16, rel=1e-12)


def test_every_result_has_finite_numbers_and_an_identity_of_every_score(tiny, digits):
    experiment = tiny(evaluation={"metrics": ["fid", "kid"]}, training={"num_images": 500})
    (result,) = Trainer(experiment, examples=digits).fit().results
    assert all(type(value) is float and math.isfinite(value) for value in result.metrics.values())
    evaluated = {name for name in result.metrics if name.startswith("eval/")}
    assert evaluated == {
        f"eval/{name}{suffix}" for name in ("fid", "fid_debiased", "kid") for suffix in ("", "_online")
    }
    assert set(result.identities) == evaluated
    assert "metric=fid " in result.identities["eval/fid"]
    assert {"train/loss", "train/grad_norm", "best/fid", "cost/train_seconds", "cost/forward_units"} <= set(
        result.metrics
    )
    assert result.metrics["eval/fid"] != result.metrics["eval/fid_online"]


def test_the_best_score_is_the_lowest_so_far(tiny, digits):
    outcome = Trainer(tiny(optimizer={"lr": 3e-2}, evaluation={"every_images": 200}), examples=digits).fit()
    values = [result.metrics["eval/fid"] for result in outcome.results]
    assert [result.metrics["best/fid"] for result in outcome.results] == [
        min(values[: index + 1]) for index in range(len(values))
    ]
    assert values != sorted(values, reverse=True), "a run in which the last is always the best shows nothing"


@pytest.mark.parametrize(
    ("coupling", "generated"),
    [
        ({"name": "independent"}, lambda _: 0),
        ({"mu": 0.0}, lambda _: 0),
        ({"mu": 0.3}, lambda _: 10),  # round(0.3 * 32) = round(9.6)
        ({"mu": 0.5, "predictor": "online"}, lambda _: 16),
        ({"mu": 1.0}, lambda _: 32),
        ({"mu": 1.0, "start": 0.5}, lambda progress: 32 if progress >= 0.5 else 0),
        ({"mu": 0.0, "mu_end": 1.0}, lambda progress: math.floor(32 * progress + 0.5)),
    ],
)
def test_cost_is_four_forwards_of_the_batch_and_one_of_each_generated_example(tiny, digits, coupling, generated):
    experiment = tiny(coupling=coupling, training={"num_images": 1_000}, evaluation={"every_images": 500})
    steps = experiment.training.num_steps
    units = [4 * 32 + generated(step / steps) for step in range(steps)]
    results = Trainer(experiment, examples=digits).fit().results
    assert [result.metrics["cost/forward_units"] for result in results] == [sum(units[:16]), sum(units)]


def test_the_number_of_levels_is_that_of_the_step_before_the_rung(tiny, digits):
    timesteps = {"name": "exponential", "s0": 2, "s1": 16}
    experiment = tiny(timesteps=timesteps, training={"num_images": 64 * 32}, evaluation={"every_images": 16 * 32})
    results = Trainer(experiment, examples=digits).fit().results
    assert [result.metrics["schedule/num_levels"] for result in results] == [3, 5, 9, 17]


# Stopping and saying ----------------------------------------------------------------------------------------------


def test_a_training_stops_before_the_next_step_when_asked(tiny, digits):
    reported = []
    trainer = Trainer(
        tiny(), examples=digits, report=reported.append, should_stop=lambda: bool(reported) and trainer.step >= 20
    )
    outcome = trainer.fit()
    assert (outcome.state, outcome.reason, trainer.step) == ("stopped", None, 20)
    assert [result.images for result in outcome.results] == [500]
    never = Trainer(tiny(), examples=digits, should_stop=lambda: True)
    assert (never.fit().state, never.step) == ("stopped", 0)


def test_a_training_at_its_end_is_completed_even_if_asked_to_stop(tiny, digits):
    reported = []
    experiment = tiny(training={"num_images": 500})
    trainer = Trainer(experiment, examples=digits, report=reported.append, should_stop=lambda: bool(reported))
    assert trainer.fit().state == "completed"


def test_progress_is_told_with_the_images_seen(tiny, digits, monkeypatch):
    told, clock = [], [0.0]

    def tick():
        clock[0] += 0.5
        return clock[0]

    monkeypatch.setattr("gcsearch.training.trainer.time.monotonic", tick)
    Trainer(tiny(), examples=digits, progress=lambda *numbers: told.append(numbers)).fit()
    images = [count for count, _ in told]
    assert len(images) > 3
    assert images == sorted(set(images))
    assert all(count % 32 == 0 and speed > 0 for count, speed in told)


# Files ------------------------------------------------------------------------------------------------------------


def test_a_training_leaves_checkpoints_and_a_grid_of_the_start_and_each_rung(tiny, digits, tmp_path):
    told = []
    experiment = tiny()
    Trainer(experiment, examples=digits, directory=tmp_path, on_samples=lambda *event: told.append(event)).fit()
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    grids = [f"samples/{images:09d}.png" for images in (0, *experiment.rungs)]
    assert found == ["checkpoints/best.pt", "checkpoints/latest.pt", *grids]
    assert told == [(images, tmp_path / grid) for images, grid in zip((0, *experiment.rungs), grids, strict=True)]


def test_without_a_folder_nothing_is_written(tiny, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = []
    Trainer(tiny(), examples=digits, on_samples=lambda *event: told.append(event), checkpoint_seconds=0).fit()
    assert list(tmp_path.iterdir()) == []
    assert told == []


def test_points_have_no_grids(tiny, points, tmp_path):
    told = []
    experiment = tiny(points)
    outcome = Trainer(experiment, directory=tmp_path, on_samples=lambda *event: told.append(event)).fit()
    assert outcome.state == "completed"
    assert told == []
    assert not (tmp_path / "samples").exists()


def test_grids_of_equal_weights_are_equal_and_of_others_differ(tiny, digits, tmp_path):
    for name, lr in (("a", 3e-3), ("b", 3e-2)):
        Trainer(tiny(optimizer={"lr": lr}), examples=digits, directory=tmp_path / name).fit()
    Trainer(tiny(seed=1), examples=digits, directory=tmp_path / "c").fit()

    def grid(name, images):
        return (tmp_path / name / "samples" / f"{images:09d}.png").read_bytes()

    assert grid("a", 0) == grid("b", 0), "the same initial weights and latents"
    assert grid("a", 0) != grid("c", 0), "another seed starts from other weights"
    assert grid("a", 2_000) != grid("b", 2_000)
    assert grid("a", 0) != grid("a", 2_000)


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 120.0])
def test_the_best_checkpoint_is_that_of_the_best_rung(tiny, digits, tmp_path, checkpoint_seconds):
    experiment = tiny(optimizer={"lr": 5e-2}, evaluation={"every_images": 200})
    at_rung = {}
    trainer = Trainer(
        experiment,
        examples=digits,
        directory=tmp_path,
        checkpoint_seconds=checkpoint_seconds,
        report=lambda result: at_rung.update({result.images: weights(trainer)}),
    )
    results = trainer.fit().results
    best = min(results, key=lambda result: result.metrics["eval/fid"])
    assert best.images != results[-1].images, "a run whose last rung is the best shows nothing"
    kept = load_checkpoint(tmp_path / "checkpoints" / "best.pt")
    assert kept.results[-1]["images"] == best.images
    torch.testing.assert_close(kept.network, at_rung[best.images], rtol=0, atol=0)
    latest = load_checkpoint(tmp_path / "checkpoints" / "latest.pt")
    torch.testing.assert_close(latest.network, weights(trainer), rtol=0, atol=0)
    assert latest.step == experiment.training.num_steps


def test_the_checkpoint_of_a_result_is_written_before_the_result_is_reported(tiny, digits, tmp_path):
    seen = []

    def report(result):
        seen.append((result.images, load_checkpoint(tmp_path / "checkpoints" / "latest.pt").results[-1]["images"]))

    Trainer(tiny(), examples=digits, directory=tmp_path, report=report).fit()
    assert seen == [(500, 500), (1_000, 1_000), (1_500, 1_500), (2_000, 2_000)]


# Reproducibility --------------------------------------------------------------------------------------------------

RECIPES = [
    pytest.param({"training": {"num_images": 1_000}}, id="generator"),
    pytest.param(
        {"coupling": "independent", "network": {"dropout": 0.3}, "training": {"num_images": 640}}, id="dropout"
    ),
    pytest.param(
        {"evaluation": {"metrics": ["fid", "kid"], "sampler": "multistep"}, "training": {"num_images": 640}},
        id="kid-multistep",
    ),
]


@pytest.mark.parametrize("sections", RECIPES)
@pytest.mark.parametrize("on_points", [False, True], ids=["digits", "points"])
@pytest.mark.usefixtures("unchanged_global_rng")
def test_a_whole_training_leaves_the_global_generators_alone(tiny, points, sections, on_points, tmp_path):
    experiment = tiny(points, **sections) if on_points else tiny(**sections)
    assert Trainer(experiment, directory=tmp_path).fit().state == "completed"


@pytest.mark.parametrize("sections", RECIPES)
def test_a_training_depends_on_its_seed_alone(tiny, digits, sections):
    trainers, outcomes = [], []
    for seed, disturbance in ((0, 1), (0, 2), (1, 1)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(disturbance)
            trainers.append(Trainer(tiny(seed=seed, **sections), examples=digits))
            outcomes.append(trainers[-1].fit())
    first, again, other = trainers
    torch.testing.assert_close(weights(again), weights(first), rtol=0, atol=0)
    assert scores(outcomes[0]) == scores(outcomes[1])
    assert differ(weights(first), weights(other))
    assert scores(outcomes[0]) != scores(outcomes[2])


def test_a_seed_of_its_own_for_the_latents_changes_scores_and_not_the_training(tiny, digits):
    first, other = (Trainer(tiny(evaluation={"seed": seed}), examples=digits) for seed in (0, 1))
    assert scores(first.fit()) != scores(other.fit())
    torch.testing.assert_close(weights(first), weights(other), rtol=0, atol=0)


def test_how_often_a_training_is_evaluated_does_not_change_it(tiny, digits):
    often, once = (Trainer(tiny(evaluation={"every_images": every}), examples=digits) for every in (100, 2_000))
    often_scores, once_scores = scores(often.fit()), scores(once.fit())
    torch.testing.assert_close(weights(often), weights(once), rtol=0, atol=0)
    for name in ("eval/fid", "cost/forward_units", "cost/step"):
        assert often_scores[-1][1][name] == once_scores[-1][1][name]


def test_two_trainings_in_one_process_do_not_influence_each_other(tiny, digits):
    experiments = [tiny(), tiny(seed=3, coupling="independent", timesteps={"name": "exponential"}, optimizer="adamw")]
    alone = []
    for experiment in experiments:
        trainer = Trainer(experiment, examples=digits)
        for _ in range(12):
            trainer.train_step()
        alone.append(weights(trainer))
    together = [Trainer(experiment, examples=digits) for experiment in experiments]
    for _ in range(12):
        for trainer in together:
            trainer.train_step()
    for trainer, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(weights(trainer), expected, rtol=0, atol=0)


def test_a_training_leaves_its_examples_alone(tiny, digits):
    before = digits.values.clone()
    Trainer(tiny(), examples=digits).fit()
    torch.testing.assert_close(digits.values, before, rtol=0, atol=0)


def test_examples_are_loaded_if_none_are_given(tiny, digits):
    experiment = tiny(training={"num_images": 500})
    assert scores(Trainer(experiment).fit()) == scores(Trainer(experiment, examples=digits).fit())


# Arithmetic -------------------------------------------------------------------------------------------------------


def losses(experiment, examples):
    trainer, values = Trainer(experiment, examples=examples), []
    for _ in range(experiment.training.num_steps):
        before = trainer.counters["loss_sum"]
        trainer.train_step()
        trainer.settle()
        values.append(trainer.counters["loss_sum"] - before)
    return torch.tensor(values, dtype=torch.float64)


def test_bf16_trains_and_stays_close_to_fp32(tiny, digits):
    full = losses(tiny(network={"width": 64}, training={"num_images": 640}), digits)
    half = losses(tiny(network={"width": 64}, training={"num_images": 640, "precision": "bf16"}), digits)
    assert (full != half).any()
    torch.testing.assert_close(half, full, rtol=0.05, atol=0)
    outcome = Trainer(tiny(training={"precision": "bf16"}), examples=digits).fit()
    assert outcome.state == "completed"
    trainer = Trainer(tiny(training={"precision": "bf16"}), examples=digits)
    assert {value.dtype for value in weights(trainer).values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.usefixtures("plain_functions", "cpp_compiler")
def test_a_compiled_training_has_the_same_losses(tiny, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    network = {"dropout": 0.2}
    eager = losses(tiny(training={"num_images": 640}, network=network), digits)
    compiled = losses(tiny(training={"num_images": 640, "compile": True}, network=network), digits)
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)


# Layers -----------------------------------------------------------------------------------------------------------

ALONE = """
import sys
from gcsearch.config import Experiment
from gcsearch.training import Trainer
assert "torch._dynamo" not in sys.modules, "a second to import"
sections = {
    "name": "tiny", "data": {"name": "gaussians_2m2m", "num_points": 100}, "network": {"name": "mlp", "width": 8},
    "optimizer": {"name": "adam", "lr": 3e-2}, "ema": {"name": "power_warmup", "period": 1},
    "training": {"num_images": 320, "batch_size": 32}, "evaluation": {"every_images": 320, "num_samples": 64},
}
outcome = Trainer(Experiment.from_dict(sections)).fit()
assert outcome.state == "completed", outcome
print(sorted({"ray", "mlflow", "optuna", "typer", "scipy.optimize"} & set(sys.modules)))
"""


def test_a_training_needs_neither_ray_nor_mlflow_nor_optuna(tmp_path):
    root = Path(sys.modules[Experiment.__module__].__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=root,
        env={"GCSEARCH_CACHE": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
