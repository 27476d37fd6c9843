"""Fetching a public file: resumed where it stopped, and checked before it is used."""

from __future__ import annotations

import hashlib
import http
import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from gcsearch.data.conversion import Progress
from gcsearch.errors import DataError

TIMEOUT_S: Final = 10.0
BLOCK: Final = 1 << 18


def md5_of(path: Path) -> str:
    """MD5 of a file: what the publishers of these archives state. It finds damage, not malice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def download(
    url: str,
    target: Path,
    *,
    md5: str,
    progress: Progress = lambda *_: None,
    timeout_s: float = TIMEOUT_S,
) -> Path:
    """Fetch a file unless it is already there.

    Args:
        url: Where from.
        target: Where to; the file appears when it is complete and its checksum is right.
        md5: Published checksum.
        progress: Told how many bytes there are.
        timeout_s: Longest silence of the server.

    Returns:
        `target`.

    Raises:
        DataError: No connection, or a wrong checksum.
    """
    if target.exists() and md5_of(target) == md5:
        return target
    partial = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, partial, target.name, progress, timeout_s)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{url}: could not be fetched: {reason}.") from None
    if (got := md5_of(partial)) != md5:
        partial.unlink()
        raise DataError(
            f"{url}: the file must have the md5 {md5}, got {got}. It was deleted; run the same command again."
        )
    return partial.replace(target)


def _fetch(url: str, partial: Path, name: str, progress: Progress, timeout_s: float) -> None:
    """Append what is missing of `partial`."""
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "gcsearch"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # there is nothing after what we have: the checksum decides
        raise
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server sends everything
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with partial.open("r+b" if have else "wb") as file:
            file.seek(have)
            while block := response.read(BLOCK):
                file.write(block)
                have += len(block)
                progress(f"downloading {name}", have, total)
    if total is not None and have < total:
        raise OSError(f"the connection ended after {have:,} of {total:,} bytes; run the same command to go on")
