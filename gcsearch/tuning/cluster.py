"""The Ray cluster a study runs on: a local one that lives as long as the study, or one that exists."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from gcsearch.errors import ConfigError
from gcsearch.tuning.spec import Resources

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # our own live table replaces Tune's
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of an experiment mean the same in a trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the driver's to handle: it writes the ledger first
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the log
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Settings of Ray that only take effect before it is imported or started."""


@contextmanager
def ray_cluster(address: str | None) -> Iterator[dict[str, float]]:
    """Connect to a cluster for the length of the block.

    Args:
        address: ``auto`` or ``ray://host:port`` for a cluster that exists; None starts one on this machine that is gone
            when the block ends, however it ends.

    Yields:
        Resources of the cluster, e.g. ``{"CPU": 2.0}``.
    """
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    before = os.environ.get("RAY_ADDRESS")
    if address is None:
        # Exported for the children: with several clusters on a host, they would not know which one is theirs.
        port = _free_port()
        os.environ |= {"RAY_GCS_SERVER_PORT": str(port), "RAY_ADDRESS": f"127.0.0.1:{port}"}
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if address is None:
            ray.init(
                address="local",
                _node_ip_address="127.0.0.1",
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise ConfigError(
                    f"--address {address}: no Ray cluster answers there ({reason}). Start one with "
                    "`ray start --head`, or leave --address out to run on this machine."
                ) from None
        yield ray.cluster_resources()  # type: ignore[no-untyped-call]
    finally:
        ray.shutdown()
        os.environ.pop("RAY_GCS_SERVER_PORT", None)
        if before is None:
            os.environ.pop("RAY_ADDRESS", None)
        else:
            os.environ["RAY_ADDRESS"] = before


def concurrency(resources: Resources, available: dict[str, float]) -> int:
    """Trials at a time.

    Raises:
        ConfigError: Not even one trial fits, which Ray would wait for without end.
    """
    demand = {
        "CPU": float(resources.workers * resources.cpus_per_worker),
        "GPU": resources.workers * resources.gpus_per_worker,
    }
    fits = min(int(available.get(kind, 0.0) / amount + 1e-9) for kind, amount in demand.items() if amount > 0)
    if fits < 1:
        wanted = ", ".join(f"{amount:g} {kind}" for kind, amount in demand.items() if amount > 0)
        present = ", ".join(f"{available.get(kind, 0):g} {kind}" for kind in demand)
        raise ConfigError(
            f"resources: a trial must fit into the cluster, it needs {wanted} and there are {present}. Lower "
            "resources.cpus_per_worker or resources.gpus_per_worker."
        )
    return fits if resources.concurrent == "auto" else min(fits, resources.concurrent)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
