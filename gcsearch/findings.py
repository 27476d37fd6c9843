"""What a look at a machine found: one line for each thing that the work needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What, in a word or two.
        state: ``ok``; ``missing`` if only some work needs it; ``broken`` if nothing, or nothing as asked, works.
        found: What is there.
        advice: What to do; empty if nothing.
    """

    name: str
    state: Literal["ok", "missing", "broken"]
    found: str
    advice: str = ""
