"""Networks. One file each; a new file registers itself."""

from gcsearch.registry import import_siblings
from gcsearch.science.networks.base import Network, networks

import_siblings(__name__, __path__)

__all__ = ["Network", "networks"]
