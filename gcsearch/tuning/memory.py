"""Processes of trials that Ray ends because their machine runs out of memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def memory_kills_as_losses() -> Iterator[None]:
    """Within, a trial whose process Ray's memory monitor ends is lost, like one whose process was killed.

    Ray tells it as an OutOfMemoryError, which is no RayActorError, and an error of another kind than that ends Tune's
    whole run, the other trials with it (seen in Ray 2.60). There is no setting for it, so Tune's handler is wrapped.
    """
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.exceptions import OutOfMemoryError, RayActorError

    original = RayActorManager._actor_task_failed

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=str(exception))
        original(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = failed  # type: ignore[method-assign]
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = original  # type: ignore[method-assign]
