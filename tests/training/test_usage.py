"""How busy a trial's machine is: the names and numbers of MLflow's own monitors, at no cost worth speaking of."""

from __future__ import annotations

import time
from typing import Any

import psutil
import pytest
import torch

from gcsearch.ledger import LEDGER_NAME, read_events
from gcsearch.training import Trainer, trainer, usage
from gcsearch.training.session import run_training
from gcsearch.training.usage import Usage


def busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_names_are_those_of_mlflows_monitors_and_numbers_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor

    monkeypatch.setattr(usage, "MIN_SECONDS", 0.2)
    monitor, mine = CPUMonitor(), Usage(torch.device("cpu"))
    begin, used = time.monotonic(), time.process_time()
    busy(0.4)
    monitor.collect_metrics()
    theirs = {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
    taken = mine.take()
    share = 100 * (time.process_time() - used) / (time.monotonic() - begin)
    assert set(theirs) < set(taken)
    for name in ("system/system_memory_usage_megabytes", "system/system_memory_usage_percentage"):
        assert taken[name] == pytest.approx(theirs[name], rel=0.05)
    assert 0 <= taken["system/cpu_utilization_percentage"] <= 100
    assert share > 5
    assert taken["system/process_cpu_utilization_percentage"] == pytest.approx(share, abs=10)
    rss = psutil.Process().memory_info().rss / 1e6
    assert taken["system/process_memory_usage_megabytes"] == pytest.approx(rss, rel=0.1)


def test_what_is_taken_is_the_mean_of_the_samples_since(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MIN_SECONDS", 0.0)
    values = iter([20.0, 40.0, 90.0, 10.0])
    mine = Usage(torch.device("cpu"))
    monkeypatch.setattr(psutil, "cpu_percent", lambda: next(values))
    mine.sample()
    mine.sample()
    assert mine.take()["system/cpu_utilization_percentage"] == 50.0
    assert mine.take()["system/cpu_utilization_percentage"] == 10.0


def test_less_than_a_second_is_not_summed_up() -> None:
    mine = Usage(torch.device("cpu"))
    mine.sample()
    assert mine.take() == {}


def test_a_look_costs_less_than_a_thousandth_of_the_time_between_two() -> None:
    mine = Usage(torch.device("cpu"))
    begin = time.process_time()
    for _ in range(100):
        mine.sample()
    assert (time.process_time() - begin) / 100 < 2e-3  # every two seconds


def test_a_training_tells_its_usage_before_each_result_and_now_and_then_between(
    tiny: Any, digits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "TELLS_PER_USAGE", 3)
    monkeypatch.setattr(Trainer, "_must_tell", lambda self: self.step > self._told_step)  # at every step
    experiment = tiny(training={"num_images": 320, "batch_size": 32}, evaluation={"every_images": 160})
    told: list[tuple[str, int]] = []
    Trainer(
        experiment,
        examples=digits,
        report=lambda result: told.append(("result", result.images)),
        on_usage=lambda images, metrics: told.append(("usage", images)) if metrics else None,
    ).fit()
    assert told == [
        ("usage", 96),
        ("usage", 160),
        ("result", 160),
        ("usage", 192),
        ("usage", 288),
        ("usage", 320),
        ("result", 320),
    ]


def test_the_ledger_has_it(tiny: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MIN_SECONDS", 0.0)
    run_training(tiny(), tmp_path)
    events = [event for event in read_events(tmp_path / LEDGER_NAME) if event["event"] in ("usage", "result")]
    assert [event["event"] for event in events[:2]] == ["usage", "result"]
    assert events[0]["images"] == events[1]["images"]
    assert "system/process_memory_usage_megabytes" in events[0]["metrics"]
    assert not any(name.startswith("system/") for name in events[1]["metrics"])


@pytest.mark.gpu
def test_a_gpu_is_seen_working() -> None:
    mine = Usage(torch.device("cuda"))
    matrix = torch.randn(4096, 4096, device="cuda")
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        matrix = (matrix @ matrix).tanh()
        torch.cuda.synchronize()
    taken = mine.take()
    assert taken["system/gpu_0_utilization_percentage"] > 20
    assert taken["system/gpu_0_power_usage_watts"] > 20
    assert 0 < taken["system/gpu_0_memory_usage_percentage"] <= 100
    assert taken["system/gpu_0_memory_usage_megabytes"] > 4096**2 * 4 / 1e6


def test_a_gpu_that_does_not_tell_its_utilization_is_asked_no_more_than_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(device: torch.device) -> int:
        raise RuntimeError("Not Supported")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000_000_000, 4_000_000_000))
    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    expected = {"memory_usage_percentage": 75.0, "memory_usage_megabytes": 3000.0}
    assert usage.gpu_usage(torch.device("cuda")) == expected
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 80)
    monkeypatch.setattr(torch.cuda, "power_draw", lambda device: 350_000)
    more = {"utilization_percentage": 80.0, "power_usage_watts": 350.0}
    assert usage.gpu_usage(torch.device("cuda")) == expected | more
