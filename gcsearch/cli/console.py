"""Where the command line writes: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

STATE_STYLES = {
    "running": "cyan",
    "completed": "green",
    "stopped": "dim",
    "diverged": "yellow",
    "failed": "red",
    "interrupted": "magenta",
}
"""Colour of each trial state; the word is always printed beside it."""

PIPED_WIDTH = 120
"""Columns of a table when nobody's terminal says how many there are."""

results = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPED_WIDTH)
progress = Console(stderr=True, highlight=False)


def set_up_logging() -> None:
    """Warnings of ours to stderr; other libraries stay quiet unless something is wrong."""
    handler = RichHandler(console=progress, show_time=False, show_path=False, markup=False)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s")
    for noisy in ("ray", "alembic", "mlflow", "optuna", "filelock"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def say(text: str, style: str = "") -> None:
    """A sentence to stdout: wrapped between words in a terminal, on one line in a pipe."""
    results.print(text, style=style, markup=False, soft_wrap=not results.is_terminal)


def tell(text: str) -> None:
    """A line to stderr about what goes on."""
    progress.print(text, markup=False, soft_wrap=True)


def print_json(data: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")
