"""What a training needs of a machine: Python, torch, GPUs, disk space."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import torch

from gcsearch.findings import Finding

MIN_FREE_GB = 5.0
"""Below this, a study of image networks fills the disk: a checkpoint of a large network is about 1 GB."""


def check_torch() -> Finding:
    """Versions, and whether torchvision is the one that belongs to this torch."""
    names = f"Python {platform.python_version()}, torch {torch.__version__}, gcsearch {version('gcsearch')}"
    try:
        import torchvision  # type: ignore[import-untyped]
    except (ImportError, RuntimeError) as error:
        found = f"{names}; torchvision cannot be imported: {str(error).splitlines()[0]}"
        advice = "Install both anew, so that pip picks a pair: `pip install -U torch torchvision`."
        return Finding(name="torch", state="broken", found=found, advice=advice)
    return Finding(name="torch", state="ok", found=f"{names}, torchvision {torchvision.__version__}")


def check_gpu() -> Finding:
    """GPUs that torch can compute on."""
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        try:
            torch.ones(2, device="cuda").sum().item()
        except RuntimeError as error:
            advice = "The driver may be too old for this torch: compare `nvidia-smi` with `torch.version.cuda`."
            found = f"{torch.cuda.get_device_name(0)}, but it cannot compute: {str(error).splitlines()[0]}"
            return Finding(name="GPU", state="broken", found=found, advice=advice)
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        return Finding(name="GPU", state="ok", found=f"{count} x {torch.cuda.get_device_name(0)}, {memory:.0f} GB")
    if shutil.which("nvidia-smi"):
        built = "was built without CUDA" if torch.version.cuda is None else f"was built for CUDA {torch.version.cuda}"
        advice = "Install the torch for your driver: https://pytorch.org/get-started."
        found = f"a driver is installed, but torch sees no GPU; it {built}"
        return Finding(name="GPU", state="broken", found=found, advice=advice)
    advice = "Fine for digits and Gaussians; images of 32 x 32 and more need a GPU."
    return Finding(name="GPU", state="missing", found="none; trainings run on the CPU", advice=advice)


def check_disk(folder: Path) -> Finding:
    """Space where checkpoints will be written, and whether it can be written at all."""
    there = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(there).free / 1e9
    found = f"{free:.0f} GB free in {there}"
    if not os.access(there, os.W_OK):
        return Finding(name="disk", state="broken", found=f"{there} cannot be written", advice="Use another --studies.")
    if free < MIN_FREE_GB:
        advice = f"Free {MIN_FREE_GB:g} GB, or put --studies on another disk: checkpoints need it."
        return Finding(name="disk", state="broken", found=found, advice=advice)
    return Finding(name="disk", state="ok", found=found)
