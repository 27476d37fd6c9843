"""What the image store holds, and what of it can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gcsearch.data.base import datasets
from gcsearch.data.image_set import ImageSet, OwnImages
from gcsearch.data.store import SUFFIX, open_images
from gcsearch.errors import DataError
from gcsearch.findings import Finding


def inventory(folder: Path) -> list[dict[str, Any]]:
    """One row per file of the store and per data set without one; `state` is embedded, prepared, not prepared, damaged.

    Args:
        folder: The store.
    """
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        files.setdefault(path.name.split("-", 1)[0].removesuffix(SUFFIX), []).append(path)
    rows = []
    for name in datasets:
        dataset = datasets[name]()
        row: dict[str, Any] = {
            "name": name,
            "shape": list(dataset.event_shape),
            "count": None,
            "path": None,
            "licence": "",
        }
        if not isinstance(dataset, ImageSet):
            rows.append(row | {"count": len(dataset.load()), "state": "embedded"})
            continue
        row |= {"licence": dataset.licence, "count": dataset.num_published}
        for path in files.get(name, []):
            try:
                metadata = open_images(path).metadata
                found = {"state": "prepared", "shape": list(metadata.shape), "count": metadata.count}
            except DataError:
                found = {"state": "damaged", "count": None}
            rows.append(row | found | {"path": str(path)})
        if name not in files:
            own = {"shape": None} if isinstance(dataset, OwnImages) else {}
            rows.append(row | {"state": "not prepared"} | own)
    return rows


def check_data(folder: Path) -> Finding:
    """Which data sets can be trained on."""
    names: dict[str, list[str]] = {}
    for row in inventory(folder):
        names.setdefault(row["state"], []).append(row["path"] if row["state"] == "damaged" else row["name"])
    found = "; ".join(f"{state}: {', '.join(dict.fromkeys(names[state]))}" for state in sorted(names))
    text = f"{found} ({folder})"
    if "damaged" in names:
        return Finding(
            name="data", state="broken", found=text, advice="Delete the damaged file; `gcsearch data prepare NAME`."
        )
    if "not prepared" in names:
        return Finding(
            name="data", state="missing", found=text, advice="For one that you want: `gcsearch data prepare NAME`."
        )
    return Finding(name="data", state="ok", found=text)
