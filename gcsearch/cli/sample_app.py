"""The command `sample`: options and help; the work is in `gcsearch.cli.sampling`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from gcsearch.cli.options import Json


def sample(
    model: Annotated[Path, typer.Argument(metavar="EXPORT|CHECKPOINT", help="Folder of an export, or a .pt file.")],
    num: Annotated[
        Optional[int],  # noqa: UP045 - typer reads it
        typer.Option("--num", min=1, help="Number of samples. Default: 64; 8 images to edit, or all of --images."),
    ] = None,
    steps: Annotated[
        Optional[int],  # noqa: UP045 - typer reads it
        typer.Option("--steps", min=1, help="Network evaluations per sample. Default: 1; the edit's own."),
    ] = None,
    levels: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it
        typer.Option("--levels", help="Noise levels of the later steps, decreasing, e.g. 0.8,0.2."),
    ] = None,
    gamma: Annotated[
        Optional[float],  # noqa: UP045 - typer reads it
        typer.Option("--gamma", help="Fresh share of the noise at each later step, 0 to 1; for the objective ctm."),
    ] = None,
    seed: Annotated[Optional[int], typer.Option("--seed", min=0, help="Seed. Default: the evaluation's.")] = None,  # noqa: UP045
    edit: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it
        typer.Option(
            "--edit",
            help="inpaint, colorize, superres, denoise, stroke, interpolate; '{name: superres, factor: 4}' says more.",
        ),
    ] = None,
    images: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it
        typer.Option("--images", help="Image or folder to edit. Default: the first of the training set."),
    ] = None,
    mask: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it
        typer.Option("--mask", help="Picture whose white pixels `--edit inpaint` draws. Default: a square."),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it
        typer.Option("--output", help="A .png for a grid, or a folder for single images. Default: samples.png."),
    ] = None,
    json: Json = False,
) -> None:
    """Draw samples from an export or checkpoint, or edit images.

    Example: `gcsearch sample exports/mu_schedule --num 16 --steps 2 --output grid.png`
    """
    from gcsearch.cli.sampling import sample_command

    sample_command(
        model,
        edit=edit,
        images=images,
        mask=mask,
        num=num,
        steps=steps,
        levels=levels,
        gamma=gamma,
        seed=seed,
        output=output,
        as_json=json,
    )
