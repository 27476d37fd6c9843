"""Ledgers to write into MLflow, and what it then holds."""

from pathlib import Path
from typing import Any

from gcsearch.ledger import Event
from gcsearch.tracking import MLflowTracker
from gcsearch.tracking.store import Store

STUDY_ID = "0123456789abcdef"
PROVENANCE = {"command": "gcsearch run mu.yaml", "seeds": {"search": 0}}
IDENTITY = (
    "metric=fid | extractor=digits@030a71db | reference=digits@b41ca9fd3354 x1797 | num_samples=64 | "
    "sampler=one_step | quantisation=clip_round_uint8"
)
PARAMS = {"coupling.mu": 0.314159265, "timesteps": "exponential", "optimizer": "lion", "optimizer.lr": 1.25e-5}
CONFIG = {
    "seed": 0,
    "coupling": {"name": "generator", "mu": 0.314159265},
    "optimizer": {"name": "lion", "lr": 1.25e-5, "betas": [0.9, 0.99]},
}


def event(name: str, second: float, **fields: Any) -> Event:
    return {"event": name, "time": f"2026-11-21T10:00:{second:06.3f}+00:00", **fields}


def started(second: float = 0.0, **fields: Any) -> Event:
    objective = {"metric": "fid", "goal": "minimize", "use": "last", "key": "eval/fid"}
    keys = ["coupling.mu", "timesteps", "optimizer"]
    fields |= {"objective": objective, "keys": keys, "horizon_images": 4000}
    return event("study_started", second, study="mu", study_id=STUDY_ID, provenance=PROVENANCE, **fields)


def trial_started(trial: str, second: float, **fields: Any) -> Event:
    common = {"kind": "trial", "params": PARAMS, "config": CONFIG, "seed": 0}
    return event("trial_started", second, trial=trial, fingerprint=f"f{trial}", recipe=f"r{trial}", **common | fields)


def result(trial: str, second: float, images: int, fid: float, **more: float) -> Event:
    metrics = {"eval/fid": fid, "train/loss": 0.5, **more}
    return event("result", second, trial=trial, images=images, metrics=metrics, identities={"eval/fid": IDENTITY})


def ended(trial: str, second: float, state: str, reason: str | None = None) -> Event:
    return event("trial_ended", second, trial=trial, state=state, **({"reason": reason} if reason else {}))


def samples(second: float, images: int) -> Event:
    return event("samples", second, trial="0000", images=images, path=f"trials/0000/samples/{images:09d}.png")


def write(uri: str, folder: Path, events: list[Event], study: str = "mu") -> MLflowTracker:
    tracker = MLflowTracker(uri, folder, study)
    for one in events:
        tracker.on_event(one)
    assert tracker.close(30) == 0
    return tracker


def history(uri: str, run_id: str, key: str) -> list[tuple[float, int, int]]:
    rows = Store(uri, "mu", Path()).client.get_metric_history(run_id, key)
    return [(row.value, row.step, row.timestamp) for row in rows]


def artifact(uri: str, run_id: str, name: str) -> str:
    return Path(Store(uri, "mu", Path()).client.download_artifacts(run_id, name)).read_text()


def image_files(uri: str, run_id: str) -> list[str]:
    return [file.path for file in Store(uri, "mu", Path()).client.list_artifacts(run_id, "images")]
