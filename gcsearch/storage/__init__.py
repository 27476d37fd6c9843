"""Studies on a pyarrow filesystem: fetched into a folder of this machine, and sent while they run."""

from gcsearch.storage.mirror import Mirror
from gcsearch.storage.remote import RemoteStudies, is_uri

__all__ = ["Mirror", "RemoteStudies", "is_uri"]
