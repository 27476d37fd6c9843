"""Errors a user can act on.

Every message follows one template: ``<where>: <what> must be <rule>, got <value>. <what to do>.``
The command line prints such an error as one line and exits with `exit_code`; anything else is our bug.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class GCSearchError(Exception):
    """Base of all errors that are addressed to the user."""

    exit_code = 2


class ConfigError(GCSearchError, ValueError):
    """An experiment, search space or command-line value that means nothing."""


class FieldError(ValueError):
    """A value that is legal on its own and wrong beside the others.

    Args:
        field: Dotted name of the offending field, e.g. ``evaluation.every_images``.
        problem: The rule, the value and the remedy, as the rest of a sentence that begins with the field.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field


class DataError(GCSearchError):
    """A data set that is missing, damaged or of the wrong shape."""


class CheckpointError(GCSearchError):
    """A checkpoint or export that cannot be read, or belongs to another recipe."""


class WeightsError(GCSearchError):
    """Published weights that are missing and cannot be downloaded, or are not the published ones."""


class StudyError(GCSearchError):
    """A study that is missing, damaged, locked by another process, or differs from what is asked."""


class ScoreError(GCSearchError):
    """Scores of different identity were about to be compared."""


class TrackingError(GCSearchError):
    """The tracking server or store cannot be used as asked."""


class WorkerError(GCSearchError):
    """A process that shared the work of a command ended before its part was done."""

    exit_code = 1


class TeacherError(GCSearchError):
    """A teacher that an experiment trains for itself could not be trained."""

    exit_code = 1


class TrialDiverged(GCSearchError):  # noqa: N818 - an outcome of a trial, not a fault of the program
    """Training produced a non-finite loss or gradient, or collapsed to a constant output.

    Args:
        message: What happened, and when.
        step: The step that was not made, 0-based, if it was a step: found out late on a GPU, where none waits.
    """

    exit_code = 1

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class TrialFailed(GCSearchError):  # noqa: N818 - an outcome of a trial, like the one above
    """A training in other processes raised an error, or its processes died too often."""

    exit_code = 1


def is_disk_full(error: OSError) -> bool:
    """Whether an error says that there is no space left: on the disk, of a quota, or below a limit of file sizes."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_full(where: object) -> str:
    """What is said of a full disk while a study or training runs.

    Args:
        where: File, folder or machine.
    """
    return (
        f"{where}: the disk is full. Nothing that was recorded is lost: free some space and run the same command again."
    )


def suggestion(word: str, known: Iterable[str]) -> str:
    """Sentence that names the nearest known word and lists the others.

    Args:
        word: What the user wrote.
        known: All words that would have been accepted.

    Returns:
        For example ``Did you mean 'generator'? Known: generator, independent.``
    """
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    return f"{hint}Known: {', '.join(known) or 'none'}."
