"""Trainings in real processes over gloo, compared with the training of one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gcsearch.science.randomness import evaluation_latents
from gcsearch.training import Trainer, load_checkpoint

pytestmark = pytest.mark.slow

SCRIPT = """\
import hashlib, json, sys
from pathlib import Path

import torch
import torch.distributed as dist

torch.set_num_threads(1)
folder, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
task = json.loads((folder / "task.json").read_text())

from gcsearch.config import Experiment
from gcsearch.metrics import evaluate
from gcsearch.science.objectives.consistency import Consistency
from gcsearch.training import Trainer
from gcsearch.training.distributed import TorchGroup

dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)

if task.get("spoil_rank") == rank:
    original = Consistency.__call__

    def spoiled(self, recipe, models, data, draws, step, num_steps):
        terms = original(self, recipe, models, data, draws, step, num_steps)
        factor = float("nan") if step == 20 else 1.0
        return type(terms)(loss=terms.loss * factor, forward_units=terms.forward_units)

    Consistency.__call__ = spoiled

drawn = {}


def recorded(seed, start, stop, source, stage=0, draw=evaluate.evaluation_latents):
    drawn[f"{stage}: {start} to {stop}"] = draw(seed, start, stop, source, stage)
    return drawn[f"{stage}: {start} to {stop}"]


evaluate.evaluation_latents = recorded

messages = []
trainer = Trainer(
    Experiment.from_dict(task["experiment"]),
    directory=folder / "run" if task.get("keep") else None,
    report=lambda result: messages.append(["result", result.images]),
    on_samples=lambda images, path: messages.append(["samples", images]),
    progress=lambda images, speed: messages.append(["progress", images]),
    should_stop=lambda: trainer.step >= task["stop_at"] if task.get("stop_at") else False,
    checkpoint_seconds=-1.0 if task.get("keep") else 1e9,
    group=TorchGroup("cpu"),
)
outcome = trainer.fit()
averages = [trainer.learner.average, *filter(None, [trainer.learner.predictor_average])]
torch.save(
    {
        "state": outcome.state,
        "reason": outcome.reason,
        "step": trainer.step,
        "results": [{"images": r.images, **r.metrics} for r in outcome.results],
        "messages": messages,
        "network": trainer.learner.network.state_dict(),
        "averages": [average.state_dict() for average in averages],
        "latents": drawn,
    },
    folder / f"rank{rank}.pt",
)
"""


def run(folder: Path, experiment, size: int, **task):
    """Exit code and output of each process."""
    folder.mkdir(exist_ok=True)
    (folder / "meeting").unlink(missing_ok=True)
    (folder / "task.json").write_text(json.dumps(task | {"experiment": experiment.to_dict()}))
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(folder / "script.py"), str(folder)]
    processes = [
        subprocess.Popen([*command, str(rank), str(size)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(size)
    ]
    try:
        outputs = [process.communicate(timeout=100)[0] for process in processes]
        return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]
    finally:
        for process in processes:
            process.kill()


def train(folder: Path, experiment, size: int = 2, **task):
    """What each process says after training."""
    for code, output in run(folder, experiment, size, **task):
        assert code == 0, output
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(size)]


RECIPES = {
    "independent": {"coupling": "independent"},
    "generator-ema": {"coupling": {"name": "generator", "mu": 0.3}},
    "generator-online-dropout": {
        "coupling": {"name": "generator", "mu": 0.5, "predictor": "online"},
        "network": {"dropout": 0.3},
    },
    "generator-ema-of-its-own-over-ot": {
        "coupling": {
            "name": "generator",
            "mu": 0.7,
            "base": "ot",
            "predictor_ema": [{"name": "constant", "half_life_images": 300}],
        }
    },
}


@pytest.fixture
def one_thread():
    """As many threads as the processes have: a matrix product on another number of them rounds differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def comparable(results):
    clocks = ("seconds", "per_second")
    return [{name: value for name, value in result.items() if not name.endswith(clocks)} for result in results]


@pytest.mark.parametrize("sections", RECIPES.values(), ids=RECIPES)
def test_two_processes_train_as_one_does(tiny, digits, sections, tmp_path):
    sections = {"optimizer": {"name": "adam", "lr": 1e-3}, "training": {"num_images": 1_000}} | sections
    experiment = tiny(**sections)
    alone = Trainer(experiment, examples=digits)
    results = [{"images": result.images, **result.metrics} for result in alone.fit().results]
    first, second = train(tmp_path / "two", tiny(**{**sections, "training": {"num_images": 1_000, "num_workers": 2}}))
    # To the last bit between the processes, to rounding between two processes and one.
    torch.testing.assert_close(first["network"], second["network"], rtol=0, atol=0)
    torch.testing.assert_close(first["averages"], second["averages"], rtol=0, atol=0)
    assert (first["state"], first["step"]) == (second["state"], second["step"])
    assert comparable(first["results"]) == comparable(second["results"])
    assert first["messages"] == second["messages"]
    assert first["state"] == "completed"
    torch.testing.assert_close(first["network"], alone.learner.network.state_dict(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first["averages"][0], alone.learner.average.state_dict(), rtol=1e-5, atol=1e-5)
    assert len(first["averages"]) == (2 if "predictor_ema" in sections["coupling"] else 1)
    for ours, theirs in zip(comparable(first["results"]), comparable(results), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-3 if name.startswith(("eval", "best")) else 1e-5), name


@pytest.mark.parametrize("num_samples", [1_200, 100], ids=["shared", "one piece for two"])
def test_all_processes_evaluate_the_same_samples_as_one(tiny, digits, num_samples, tmp_path, one_thread):
    evaluation = {
        "num_samples": num_samples,
        "metrics": ["fid", "kid", "is"],
        "sampler": {"name": "multistep", "levels": [0.8]},
    }
    sections = {"training": {"num_images": 500, "num_workers": 2}, "evaluation": evaluation}
    ranks = train(tmp_path / "two", tiny(**sections))
    alone = Trainer(tiny(evaluation=evaluation, training={"num_images": 500}), examples=digits)
    alone.learner.network.load_state_dict(ranks[0]["network"])
    alone.learner.average.load_state_dict(ranks[0]["averages"][0])
    scores = alone.judge(alone.learner.models, 15).scores
    for rank in ranks:
        assert {name: rank["results"][-1][name] for name in scores} == scores  # to the last bit
    experiment, shares = alone.experiment, [rank["latents"] for rank in ranks]
    size = alone.judge.draws.batch_size
    batches = [(start, min(start + size, num_samples)) for start in range(0, num_samples, size)]
    names = [f"{stage}: {start} to {stop}" for stage in (0, 1) for start, stop in batches]
    assert sorted(name for share in shares for name in share) == sorted(names)  # each once, by one process
    assert [bool(share) for share in shares] == [True, num_samples > size]
    for name in names:
        stage, start, _, stop = name.replace(":", "").split()
        seed, source = experiment.evaluation.seed, experiment.data.draw_source
        expected = evaluation_latents(seed, int(start), int(stop), source, int(stage))
        (drawn,) = (share[name] for share in shares if name in share)
        torch.testing.assert_close(drawn, expected, rtol=0, atol=0)


def test_a_divergence_in_one_process_ends_all_at_the_same_step(tiny, tmp_path):
    experiment = tiny(training={"num_workers": 2})
    first, second = train(tmp_path / "two", experiment, spoil_rank=1)
    for said in (first, second):
        assert (said["state"], said["step"]) == ("diverged", 20)
        assert said["reason"].startswith("step 21: loss is nan")
        assert [result["images"] for result in said["results"]] == [500]
        assert all(torch.isfinite(value).all() for value in said["network"].values())
    torch.testing.assert_close(first["network"], second["network"], rtol=0, atol=0)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_training_goes_on_with_another_number_of_processes(tiny, digits, before, after, tmp_path):
    sections = {"optimizer": {"name": "adam", "lr": 1e-3}, "network": {"dropout": 0.2}}
    experiment = tiny(**sections, training={"num_images": 1_000})
    whole = Trainer(experiment, examples=digits)
    expected = whole.fit()
    cut = train(tmp_path / "cut", experiment, before, keep=True, stop_at=21)
    assert {said["state"] for said in cut} == {"stopped"}
    assert {said["step"] for said in cut} == {21}
    latest = tmp_path / "cut" / "run" / "checkpoints" / "latest.pt"
    assert load_checkpoint(latest).step == 21
    said = train(tmp_path / "cut", experiment, after, keep=True)
    for one in said:
        assert (one["state"], one["step"]) == ("completed", 32)
        torch.testing.assert_close(one["network"], whole.learner.network.state_dict(), rtol=1e-5, atol=1e-5)
        assert [result["images"] for result in one["results"]] == [result.images for result in expected.results]
        # The result from before the cut is told again, and no grid is drawn twice.
        assert one["messages"] == [["result", 500], ["samples", 1000], ["result", 1000]]
    torch.testing.assert_close(load_checkpoint(latest).network, said[0]["network"], rtol=0, atol=0)
    names = [path.name for path in sorted((tmp_path / "cut" / "run" / "samples").iterdir())]
    assert names == ["000000000.png", "000000500.png", "000001000.png"]


def test_a_process_that_fails_takes_the_others_with_it(tiny, tmp_path):
    experiment = tiny(training={"num_workers": 2})
    folder = tmp_path / "two"
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "run" / "checkpoints" / "latest.pt").write_bytes(b"not a checkpoint")
    (first_code, first), (second_code, second) = run(folder, experiment, 2, keep=True)
    assert first_code == second_code == 1
    assert "CheckpointError" in first
    assert "latest.pt: is not a readable checkpoint" in first
    assert "WorkerLost: the first process failed: CheckpointError" in second
