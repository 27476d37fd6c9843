"""The null tracker, which is also the base of all others: one that is told everything and does nothing."""

from __future__ import annotations

from gcsearch.ledger import Event


class Tracker:
    """Is told what happens in a study. To add a tracker, override what it needs; no method may block or raise."""

    def on_event(self, event: Event) -> None:
        """An event is in the ledger; events of earlier runs of the study come first, in order.

        Args:
            event: The event as written.
        """

    def on_progress(self, trial: str, images: int, images_per_second: float) -> None:
        """A trial is between two rungs.

        Args:
            trial: Its number, e.g. ``0007``.
            images: Images seen so far.
            images_per_second: Speed since the last call.
        """

    def close(self, timeout_s: float = 10.0) -> int:
        """Write what is left; the tracker takes no events any more.

        Args:
            timeout_s: Longest time to wait.

        Returns:
            How many events are not written.
        """
        del timeout_s
        return 0
