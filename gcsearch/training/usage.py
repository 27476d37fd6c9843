"""How busy the machine is that a training runs on, under the names that MLflow gives its own system metrics."""

from __future__ import annotations

import time
from typing import Final

import psutil
import torch

MIN_SECONDS: Final = 1.0
"""Shorter times are not summed up: clocks of the operating system tick every 10 ms."""

PREFIX: Final = "system/"
"""MLflow's pages show metrics with this prefix on a tab of their own."""

MEGABYTE: Final = 1e6


class Usage:
    """Samples the machine, and this process on it, whenever asked; costs about 0.2 ms a sample (with a GPU 1 ms).

    - ``cpu_utilization_percentage``, ``system_memory_usage_percentage`` and ``_megabytes``: the whole machine.
    - ``process_cpu_utilization_percentage`` (100 is one core) and ``process_memory_usage_megabytes``: this process.
    - ``gpu_0_…``: the GPU it computes on, whoever else does: memory, utilization and power, as far as it tells.

    Args:
        device: Where the training computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._process = psutil.Process()
        self._samples: list[dict[str, float]] = []
        self._taken_at = time.monotonic()
        psutil.cpu_percent()  # shares of time are since the call before
        self._process.cpu_percent()

    def sample(self) -> None:
        """Look once; shares of time are since the last look."""
        memory = psutil.virtual_memory()
        sample = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "process_cpu_utilization_percentage": self._process.cpu_percent(),
            "process_memory_usage_megabytes": self._process.memory_info().rss / MEGABYTE,
        }
        if self.device.type == "cuda":
            sample |= {f"gpu_0_{name}": value for name, value in gpu_usage(self.device).items()}
        self._samples.append(sample)

    def take(self) -> dict[str, float]:
        """Means since the last call; nothing if that was less than a second ago."""
        if time.monotonic() - self._taken_at < MIN_SECONDS:
            return {}
        self.sample()
        samples, self._samples, self._taken_at = self._samples, [], time.monotonic()
        names = dict.fromkeys(name for sample in samples for name in sample)
        columns = {name: [sample[name] for sample in samples if name in sample] for name in names}
        return {PREFIX + name: round(sum(column) / len(column), 1) for name, column in columns.items()}


def gpu_usage(device: torch.device) -> dict[str, float]:
    """Memory, utilization and power of a GPU; without what it does not tell, as shares of a GPU (MIG) do not."""
    free, total = torch.cuda.mem_get_info(device)
    usage = {
        "memory_usage_percentage": 100 * (total - free) / total,
        "memory_usage_megabytes": (total - free) / MEGABYTE,
    }
    try:
        usage["utilization_percentage"] = float(torch.cuda.utilization(device))
        usage["power_usage_watts"] = torch.cuda.power_draw(device) / 1000
    except Exception:  # the driver's library raises errors of its own, and a training is not to end by any of them
        return usage
    return usage
