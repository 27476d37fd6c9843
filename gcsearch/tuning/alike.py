"""Whether the nodes of a cluster can run this study: the same gcsearch everywhere."""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from gcsearch.errors import StudyError

ANSWER_TIMEOUT_S: Final = 120
"""Longest wait for a node to say what it has: a process is started there, and reads the package."""


@lru_cache(maxsize=1)
def code_identity() -> str:
    """Version of gcsearch and a hash of its sources: a version says little about a checkout."""
    specification = find_spec("gcsearch")
    assert specification is not None
    assert specification.origin is not None
    folder, digest = Path(specification.origin).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{version('gcsearch')} ({digest.hexdigest()[:12]})"


def check_here(code: str) -> None:
    """Refuse to train on a node that the driver has not seen before and that is unlike its own.

    Args:
        code: `code_identity` of the driver.

    Raises:
        StudyError: Another gcsearch is installed here.
    """
    if problem := describe_problem(platform.node(), code_identity(), code):
        raise StudyError(problem)


def describe_problem(node: str, found: str | None, code: str) -> str | None:
    """What keeps a node from running trials; None if nothing does.

    Args:
        node: Its address or name.
        found: `code_identity` there; None without gcsearch.
        code: `code_identity` of the driver.
    """
    if found == code:
        return None
    return (
        f"node {node}: gcsearch must be the same as where the study is started, {code}, got {found or 'none'}. Install "
        "it on every node, in the Python that runs Ray."
    )


def check_nodes() -> str:
    """Ask every node of the connected cluster whether it can run trials.

    Returns:
        `code_identity`, the same everywhere.

    Raises:
        StudyError: One cannot, or does not answer.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Defined in here, so that Ray sends the code itself: a node without gcsearch could not import it.
    def answer() -> str | None:
        try:
            from gcsearch.tuning.alike import code_identity as identity
        except ImportError:  # none is installed, or one that is older than this module
            try:
                return f"{version('gcsearch')}, an older one"
            except ImportError:
                return None
        return identity()

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    task = ray.remote(num_cpus=0, max_retries=0)(answer)
    asked = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(): node[
            "NodeManagerAddress"
        ]
        for node in nodes
    }
    for reference, node in asked.items():
        try:
            found = ray.get(reference, timeout=ANSWER_TIMEOUT_S)
        except (GetTimeoutError, RayError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise StudyError(
                f"node {node}: must run a task within {ANSWER_TIMEOUT_S} s, but did not ({reason}). Look at "
                "`ray status`; stop Ray on a node that is broken."
            ) from None
        if problem := describe_problem(node, found, code_identity()):
            raise StudyError(problem)
    return code_identity()
