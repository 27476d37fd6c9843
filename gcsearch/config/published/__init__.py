"""Configurations of the GC paper's published code as experiments.

`import_published` reads one (``configs/*.yaml`` of github.com/thibautissenhuth/consistency_GC), `imported_yaml` writes
the experiment with every remark that a reader of the file needs. Keys that are missing get that code's defaults, not
ours; keys that it never reads are named and left out.
"""

from gcsearch.config.published.convert import import_published, imported_yaml
from gcsearch.config.published.notes import HEADINGS, Note

__all__ = ["HEADINGS", "Note", "import_published", "imported_yaml"]
