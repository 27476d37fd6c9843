"""Data sets and batches. One file per source; a new file registers itself."""

from gcsearch.data.base import Dataset, Examples, datasets
from gcsearch.registry import import_siblings

import_siblings(__name__, __path__)

__all__ = ["Dataset", "Examples", "datasets"]
