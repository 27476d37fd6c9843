"""A small study on the digits, as files in a temporary folder, and a loop that runs one without Ray."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gcsearch.ledger import ENDED, LEDGER_NAME, LedgerWriter, StudyState, read_events
from gcsearch.tuning.search_driver import SearchDriver
from gcsearch.tuning.spec import StudySpec, load_study

EXPERIMENT = """\
name: tiny
data: {name: digits}
network: {name: mlp, width: 16}
timesteps: {name: fixed, num_levels: 20}
coupling: {name: generator, mu: 0.5, predictor: ema}
optimizer: {name: lion, lr: 5e-4}
training: {num_images: 6_400, batch_size: 64}
evaluation: {every_images: 800, num_samples: 64, metrics: [fid]}
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a study file (keyword: section as YAML or as data) beside `experiments/tiny.yaml`."""

    def write(text: str | None = None, *, experiment: str = EXPERIMENT, **sections: Any) -> Path:
        (tmp_path / "experiments").mkdir(exist_ok=True)
        (tmp_path / "experiments" / "tiny.yaml").write_text(experiment)
        if text is None:
            sections = {"experiment": "tiny", "space": {"coupling.mu": {"min": 0.0, "max": 1.0}}} | sections
            lines = [f"{key}: {json.dumps(value)}" for key, value in sections.items() if value is not ...]
            text = "\n".join(lines) + "\n"
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def make_study(study_file: Callable[..., Path]) -> Callable[..., StudySpec]:
    """Loads such a study."""

    def make(text: str | None = None, **sections: Any) -> StudySpec:
        return load_study(study_file(text, **sections))

    return make


# Synthetic curves, trained one after the other into a real ledger

STUDY = {
    "space": {
        "coupling.mu": {"min": 0.0, "max": 1.0},
        "timesteps": {
            "values": [
                {"name": "fixed", "num_levels": {"values": [10, 20]}},
                {"name": "exponential", "s0": 10, "s1": {"min": 40, "max": 160}},
            ]
        },
        "network.dropout": {"min": 0.0, "max": 0.5, "when": {"timesteps.name": "exponential"}},
    },
    "budget": {"trials": 9},
    "search": {"sampler": {"name": "auto", "min_observations": 3, "random_share": 0.2}, "seed": 4},
    "stopping": {"name": "asha", "variant": "stopping", "min_images": 800, "factor": 2, "within": "none"},
}
ASSIGNMENTS = ["training.num_images=3200"]
RUNGS = (800, 1600, 2400, 3200)


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug in these tests."""
    monkeypatch.setattr("gcsearch.ledger.os.fsync", lambda _: None)


@pytest.fixture
def sections() -> dict[str, Any]:
    """The sections of the study of synthetic curves."""
    return STUDY


@pytest.fixture
def load(study_file: Callable[..., Path]) -> Callable[..., StudySpec]:
    """Loads that study, with other sections or further overrides."""

    def make(*, assignments: Sequence[str] = (), **sections: Any) -> StudySpec:
        return load_study(study_file(**STUDY | sections), assignments=[*ASSIGNMENTS, *assignments])

    return make


@pytest.fixture
def study(load: Callable[..., StudySpec]) -> StudySpec:
    """That study as it is."""
    return load()


def score(params, images):
    """Falls with training; curves of different parameters cross; large mu diverges late."""
    mu = params["coupling.mu"]
    speed = 2.0 if params["timesteps"] == "fixed" else 1.0
    return (mu - 0.3) ** 2 + 0.1 * params.get("network.dropout", 0.0) + math.exp(-speed * images / 1600)


def diverges(params, images):
    return params["coupling.mu"] > 0.85 and images > 800


def rungs_of(record):
    every = record.config["evaluation"]["every_images"]
    return tuple(range(every, RUNGS[-1], every)) + RUNGS[-1:]


def luck(record):
    """What a seed other than the search's adds."""
    return 0.002 * math.sin(1000 * record.params["coupling.mu"] + record.seed) if record.seed else 0.0


class Killed(Exception):  # noqa: N818 - not an error
    """The driver's process is gone."""


IDENTITY = (
    "metric=fid | extractor=digits@1 | reference=digits@2 x1797 | num_samples={} | sampler=one_step | "
    "quantisation=clip_round_uint8"
)


class Training:
    """One trial as a trainer reports it; its checkpoint outlives the driver."""

    def __init__(self, driver, record, checkpoints, seconds):
        self.driver, self.record, self.checkpoints, self.seconds = driver, record, checkpoints, seconds
        self.messages = self._messages(record.images)

    def _messages(self, reported):
        params, trial = self.record.params, self.record.trial
        identity = IDENTITY.format(self.record.config["evaluation"]["num_samples"])
        if trial not in self.checkpoints:
            yield {"samples": [0, "000000000.png"]}
        for images in rungs_of(self.record):
            if images > self.checkpoints.get(trial, 0):
                yield {"progress": [images - 1, 10.0]}
                if diverges(params, images):
                    yield {"outcome": {"state": "diverged", "reason": f"{images} images: loss must be finite."}}
                    return
                yield {"samples": [images, f"{images:09d}.png"]}
                self.checkpoints[trial] = images
            if images > reported:
                value = score(params, images) + luck(self.record)
                seconds = self.seconds(self.record.params, images)
                metrics = {"eval/fid": value, "train/loss": 1.0, "cost/train_seconds": seconds}
                yield {"result": {"images": images, "metrics": metrics, "identities": {"eval/fid": identity}}}
        yield {"outcome": {"state": "completed", "reason": None}}

    def step(self):
        """Whether there is more to do."""
        message = next(self.messages, None)
        return message is not None and not self.driver.on_report(self.record.trial, message)


def run_without_ray(
    study,
    directory,
    checkpoints=None,
    *,
    concurrent=1,
    observers=(),
    stop_after=None,
    seconds=lambda params, images: images / 100,
):
    """What `run_study` does, with a loop in place of Ray."""
    checkpoints = {} if checkpoints is None else checkpoints
    with LedgerWriter(directory / LEDGER_NAME) as ledger:
        events = read_events(directory / LEDGER_NAME)
        driver = SearchDriver(study, directory, ledger, StudyState(events), observers)
        driver.write("study_started", study=study.name, **study.opening())
        running, steps = [], 0
        while True:
            while len(running) < concurrent and (record := driver.next_trial()):
                running.append(Training(driver, record, checkpoints, seconds))
            if not running:
                break
            for training in list(running):
                steps += 1
                if stop_after is not None and steps > stop_after:
                    raise Killed
                if not training.step():
                    running.remove(training)
        driver.finish()
        return driver.state


def outcome_of(state):
    """All that a study is about: who was tried, with what scores and what end."""
    return {
        trial: (
            record.params,
            record.config,
            record.seed,
            record.state,
            record.reason,
            [(result.images, result.metrics, result.identities) for result in record.results],
            record.samples,
        )
        for trial, record in state.trials.items()
    }


def check_ledger_in(directory):
    """What holds for every ledger, however often its driver was killed."""
    ended, results = set(), set()
    for event in read_events(directory / LEDGER_NAME):
        trial = event.get("trial")
        if event["event"] == "trial_started":
            assert trial not in ended, f"{trial} had ended"
        if event["event"] == "result":
            assert (trial, event["images"]) not in results, f"result {trial} at {event['images']} twice"
            results.add((trial, event["images"]))
        if event["event"] == "trial_ended" and event["state"] in ENDED:
            assert trial not in ended, f"{trial} ended twice"
            ended.add(trial)
    return ended


def ledger_lines(directory):
    return (directory / LEDGER_NAME).read_bytes().splitlines(keepends=True)


@pytest.fixture
def killed() -> type[Exception]:
    """What `run` raises where it is told to stop."""
    return Killed


@pytest.fixture
def run() -> Callable[..., StudyState]:
    """Runs a study in a folder: what `run_study` does, with a loop in place of Ray."""
    return run_without_ray


@pytest.fixture
def outcome() -> Callable[..., dict[str, Any]]:
    """All that a study is about: who was tried, with what scores and what end."""
    return outcome_of


@pytest.fixture
def check_ledger() -> Callable[..., set[str]]:
    """Checks what holds for every ledger in a folder and gives the trials that ended."""
    return check_ledger_in


@pytest.fixture
def lines_of() -> Callable[..., list[bytes]]:
    """The lines of the ledger in a folder."""
    return ledger_lines
