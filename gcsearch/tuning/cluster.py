"""The Ray cluster a study runs on: a local one that lives as long as the study, or one that exists."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeGuard

from gcsearch.errors import ConfigError

if TYPE_CHECKING:  # trials import this module, and need neither Optuna nor the rest of it
    from gcsearch.tuning.settings import Resources

logger = logging.getLogger(__name__)

Nodes = list[dict[str, float]]
"""Resources of each node of a cluster, e.g. ``[{"CPU": 8.0, "GPU": 2.0}]``."""

TRIAL_CPUS: Final = 0.01
"""What the process of a trial that only passes messages on is charged, so that Ray places it. Its workers ask for as
much less, each: a trial of two workers of one core fits into two cores."""

PLACE_TIMEOUT_S: Final = 300
"""Longest wait for a place for a trial. Ray itself would wait without end and say nothing."""

LEAVE_TIMEOUT_S: Final = 10.0
"""Longest wait for Ray to give up the place of a trial that has ended, before it is taken away."""

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # our own live table replaces Tune's
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of an experiment mean the same in a trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the driver's to handle: it writes the ledger first
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the log
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # nor is Tune's own state ever read
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Settings of Ray that only take effect before it is imported or started."""


@contextmanager
def ray_cluster(address: str | None) -> Iterator[Nodes]:
    """Connect to a cluster for the length of the block.

    Args:
        address: ``auto`` or ``host:port`` for a cluster that exists and that this machine is a node of; None starts one
            on this machine that is gone when the block ends, however it ends.

    Yields:
        Resources of its nodes.
    """
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    before = os.environ.get("RAY_ADDRESS")
    if address is None:
        # Exported for the children: with several clusters on a host, they would not know which one is theirs.
        port = _free_port()
        os.environ |= {"RAY_GCS_SERVER_PORT": str(port), "RAY_ADDRESS": f"127.0.0.1:{port}"}
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    # Tune prints the traceback of a trial that has failed; the driver says why, in a line.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
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
            _connect(address)
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    finally:
        ray.shutdown()
        os.environ.pop("RAY_GCS_SERVER_PORT", None)
        if before is None:
            os.environ.pop("RAY_ADDRESS", None)
        else:
            os.environ["RAY_ADDRESS"] = before


def is_outside(address: str | None) -> TypeGuard[str]:
    """Whether an address is one of Ray Client: this machine is not a node of the cluster."""
    return address is not None and address.startswith("ray://")


def check_address(address: str | None) -> None:
    """Refuse an address that cannot work.

    Raises:
        ConfigError: It is one of Ray Client, through which Tune's controller cannot run beside our ledger, or of
            another kind that Ray does not know.
    """
    if address is not None and "://" in address:
        raise ConfigError(
            f"--address must be auto, or host:port of the head, and given on a node of the cluster, got {address}. "
            "Only `gcsearch run` and `gcsearch ablate` take ray://HOST:PORT, from a machine outside."
        )


def _connect(address: str) -> None:
    """Connect to a cluster that exists.

    Raises:
        ConfigError: None answers, or it refuses our token.
    """
    import ray
    from ray.exceptions import AuthenticationError

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except AuthenticationError as error:
        reason = str(error).split(". ")[0]
        raise ConfigError(
            f"--address {address}: the cluster's token must be known here. Ray says: {reason}. {TOKEN}"
        ) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"--address {address}: no Ray cluster answers there ({reason}). Start one with `ray start --head`, or "
            f"leave --address out to run on this machine. If there is one, it may ask for another token. {TOKEN}"
        ) from None


TOKEN: Final = (
    "The token is read from RAY_AUTH_TOKEN, from the file RAY_AUTH_TOKEN_PATH or from ~/.ray/auth_token, and must be "
    "the one of the cluster's nodes; RAY_AUTH_MODE=disabled is only for clusters without one."
)


def worker_bundle(cpus: int, gpus: float) -> dict[str, float]:
    """What Ray reserves for each of several workers of a trial."""
    return {"CPU": cpus - TRIAL_CPUS} | ({"GPU": gpus} if gpus > 0 else {})


def concurrency(resources: Resources, nodes: Nodes) -> int:
    """Trials at a time, so that the places of all of them exist: a worker cannot be spread over two nodes or GPUs.

    Raises:
        ConfigError: Not even one trial fits, which Ray would wait for without end.
    """
    workers = sum(min(_fitting(node.get(kind, 0.0), amount) for kind, amount in _demand(resources)) for node in nodes)
    fits = workers // resources.workers
    if fits < 1:
        each = " of one worker" if resources.workers == 1 else f" of {resources.workers} workers"
        wanted = " and ".join(f"{amount:g} {kind}" for kind, amount in _demand(resources))
        present = "; ".join(", ".join(f"{node.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU")) for node in nodes)
        raise ConfigError(
            f"resources: a trial{each} must fit into the cluster, each worker needs {wanted}, and the nodes have "
            f"{present}. Use fewer workers, or lower cpus_per_worker or gpus_per_worker."
        )
    return fits if resources.concurrent == "auto" else min(fits, resources.concurrent)


def _demand(resources: Resources) -> list[tuple[str, float]]:
    """What one worker needs."""
    wanted = [("CPU", float(resources.cpus_per_worker)), ("GPU", resources.gpus_per_worker)]
    return [(kind, amount) for kind, amount in wanted if amount > 0]


def _fitting(available: float, amount: float) -> int:
    """How many workers a node has room for. A share of a GPU is a share of one."""
    if amount < 1:
        return int(available + 1e-9) * int(1 / amount + 1e-9)
    return int(available / amount + 1e-9)


def describe_free(resources: Resources) -> str:
    """Why a trial that fits into the cluster has found no place."""
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    present = ", ".join(f"{free.get(kind, 0):g} of {total[kind]:g} {kind}" for kind in ("CPU", "GPU") if kind in total)
    wanted = " and ".join(f"{amount:g} {kind}" for kind, amount in _demand(resources))
    return (
        f"resources: a trial must find a place within {PLACE_TIMEOUT_S} s, but its {resources.workers} worker(s), each "
        f"with {wanted}, found none; free are {present}. Somebody else may use the cluster: run the same command again "
        "when there is room."
    )


class Places:
    """Placement groups of the workers of trials: those of trials that have ended are waited for.

    Ray Train gives up the place of a stopped trial a moment later, from a process of its own. Until then a next trial
    would wait; and if that process cannot reach the cluster's state, the place would never be free.
    """

    def __init__(self) -> None:
        self._taken: dict[str, str] = {}
        self._left: dict[str, float] = {}

    def take(self, trial: str, place: str) -> None:
        """A trial has a place, given by its identifier."""
        self._taken[trial] = place

    def leave(self, trial: str) -> None:
        """The trial has ended."""
        place = self._taken.pop(trial, None)
        if place is not None:
            self._left[place] = time.monotonic()

    def are_free(self) -> bool:
        """Whether all places of trials that have ended are free. What is not free in time is taken away."""
        if not self._left:
            return True
        from ray.util.placement_group import placement_group_table

        table = placement_group_table()
        for place, since in list(self._left.items()):
            if table.get(place, {}).get("state", "REMOVED") == "REMOVED":
                del self._left[place]
            elif time.monotonic() - since > LEAVE_TIMEOUT_S:
                logger.warning("Ray has kept the place of a trial that has ended; taking it away.")
                _take_away(place)
                self._left[place] = time.monotonic()
        return not self._left


def _take_away(place: str) -> None:
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(place)))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
