"""Editing given images with a network that was trained to generate. One file for each family of edits."""

from gcsearch.registry import import_siblings
from gcsearch.science.editing.base import Edit, edit, edits
from gcsearch.science.editing.interpolation import interpolated_latents

import_siblings(__name__, __path__)

__all__ = ["Edit", "edit", "edits", "interpolated_latents"]
