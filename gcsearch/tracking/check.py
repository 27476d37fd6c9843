"""Whether an MLflow store can be used, without changing it."""

from __future__ import annotations

import os

from gcsearch.errors import TrackingError
from gcsearch.findings import Finding
from gcsearch.tracking.store import check_uri, import_client, sqlite_path


def check_tracking(uri: str) -> Finding:
    """Whether the store answers; one that a study would make is not made here.

    Args:
        uri: Tracking URI.
    """
    try:
        check_uri(uri)
    except TrackingError as error:
        return Finding(name="MLflow", state="broken", found=uri, advice=str(error))
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        if os.access(path.parent, os.W_OK):
            return Finding(name="MLflow", state="ok", found=f"{uri} (the first study makes it)")
        advice = f"{path.parent} cannot be written; name another store with --tracking."
        return Finding(name="MLflow", state="broken", found=uri, advice=advice)
    try:
        found = import_client()(tracking_uri=uri).search_experiments(max_results=1000)
    except Exception as error:
        # Databases, servers and MLflow itself raise errors of many kinds, and all of them mean the same here.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = (
            "Repair it, start the server, or name another store with --tracking. Studies run without: `gcsearch sync`."
        )
        return Finding(name="MLflow", state="broken", found=f"{uri} does not answer: {reason}", advice=advice)
    return Finding(name="MLflow", state="ok", found=f"{uri} ({len(found)} experiments)")
