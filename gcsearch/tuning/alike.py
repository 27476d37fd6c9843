"""Whether the nodes of a cluster can run this study: the same gcsearch everywhere, and one storage for all."""

from __future__ import annotations

import hashlib
import os
import platform
import uuid
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

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


def check_here(code: str, directory: Path) -> None:
    """Refuse to train on a node that the driver has not seen before and that is unlike its own.

    Args:
        code: `code_identity` of the driver.
        directory: Folder of the trial, which the driver has written to.

    Raises:
        StudyError: Another gcsearch is installed here, or the folder is not the driver's.
    """
    answer = {"code": code_identity(), "sees": (directory / "config.yaml").is_file(), "may": True}
    if problem := describe_problem(platform.node(), answer, code, directory):
        raise StudyError(problem)


def describe_problem(node: str, answer: dict[str, Any], code: str, directory: Path) -> str | None:
    """What keeps a node from running trials; None if nothing does.

    Args:
        node: Its address or name.
        answer: ``code`` (`code_identity` there, None without gcsearch), ``sees`` and ``may`` (the folder).
        code: `code_identity` of the driver.
        directory: The folder.
    """
    if answer["code"] != code:
        found = "none" if answer["code"] is None else answer["code"]
        return (
            f"node {node}: gcsearch must be the same as where the study is started, {code}, got {found}. Install it on "
            "every node, in the Python that runs Ray."
        )
    if not answer["sees"]:
        return (
            f"node {node}: the folder of the study, {directory}, must be the same on all nodes, but is not there. Put "
            "--studies on storage that all of them mount at the same place (NFS, EFS, Filestore)."
        )
    if not answer["may"]:
        return f"node {node}: the folder of the study, {directory}, must be writable. Change its owner or mode."
    return None


def check_nodes(directory: Path) -> str:
    """Ask every node of the connected cluster whether it can run this study.

    Args:
        directory: Folder of the study.

    Returns:
        `code_identity`, the same everywhere.

    Raises:
        StudyError: One cannot, or does not answer.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    directory = directory.resolve()
    marker = directory / f".seen-{uuid.uuid4().hex}"
    marker.touch()

    # Defined in here, so that Ray sends the code itself: a node without gcsearch could not import it.
    def answer(file: str) -> dict[str, Any]:
        try:
            from gcsearch.tuning.alike import code_identity as identity
        except ImportError:  # none is installed, or one that is older than this module
            try:
                found = f"{version('gcsearch')}, an older one"
            except ImportError:
                return {"code": None, "sees": False, "may": False}
        else:
            found = identity()
        return {"code": found, "sees": os.path.exists(file), "may": os.access(os.path.dirname(file), os.W_OK)}  # noqa: PTH110, PTH120

    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        task = ray.remote(num_cpus=0, max_retries=0)(answer)
        asked = {
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                str(marker)
            ): node["NodeManagerAddress"]
            for node in nodes
        }
        for reference, node in asked.items():
            try:
                said = ray.get(reference, timeout=ANSWER_TIMEOUT_S)
            except (GetTimeoutError, RayError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise StudyError(
                    f"node {node}: must run a task within {ANSWER_TIMEOUT_S} s, but did not ({reason}). Look at "
                    "`ray status`; stop Ray on a node that is broken."
                ) from None
            if problem := describe_problem(node, said, code_identity(), directory):
                raise StudyError(problem)
    finally:
        marker.unlink(missing_ok=True)
    return code_identity()
