"""The command that draws: samples, edited images, and images on the way between two samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gcsearch.cli.console import print_json, results
from gcsearch.config import parse_value
from gcsearch.errors import ConfigError, DataError
from gcsearch.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from gcsearch.export import LoadedModel

INTERPOLATE: Final = "interpolate"
"""An edit that needs no image."""

NUM_SAMPLES: Final = 64
NUM_EDITED: Final = 8
COLUMNS: Final = 8

GREY: Final = 128
"""Of places without an image, as in every grid."""


def sample_command(
    path: Path,
    *,
    edit: str | None,
    images: Path | None,
    mask: Path | None,
    num: int | None,
    steps: int | None,
    levels: str | None,
    gamma: float | None,
    seed: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Draw samples, edit images, or go from sample to sample: to a grid, a folder of images, or a table of points."""
    from gcsearch.export import interpolated, load_model, steps_sampler

    model = load_model(path)
    rule: Any = None if edit is None else parse_value(edit, "--edit")
    chosen_levels = _levels(levels)
    chosen_seed = model.experiment.evaluation.seed if seed is None else seed
    if rule not in (None, INTERPOLATE):
        if gamma is not None:
            raise ConfigError(f"--gamma {gamma:g}: must be left out for --edit {rule}, which has steps of its own.")
        references = _references(model, images, num)
        _edit(model, _with_mask(rule, mask), references, steps, chosen_levels, chosen_seed, output, as_json=as_json)
        return
    for option, value in (("--images", images), ("--mask", mask)):
        if value is not None:
            raise ConfigError(f"{option} {value}: is for images to edit. Name an edit, for example --edit inpaint.")
    sampler = steps_sampler(model.experiment, steps or 1, chosen_levels, gamma)
    target = _target(output, rule or "samples", is_image=len(model.experiment.data.event_shape) == 3)
    count = num or NUM_SAMPLES
    if rule == INTERPOLATE:
        samples = interpolated(model, count, COLUMNS, sampler=sampler, seed=chosen_seed)
    else:
        samples = model.draw(count, sampler=sampler, seed=chosen_seed)
    _write(target, samples)
    _tell(target, "samples", count, sampler.num_evaluations, chosen_seed, as_json=as_json)


def _edit(
    model: LoadedModel,
    rule: Any,
    references: Tensor,
    steps: int | None,
    levels: tuple[float, ...] | None,
    seed: int,
    output: Path | None,
    *,
    as_json: bool,
) -> None:
    """Edit images; a grid shows, below each other, the given ones, what the model saw of them, and the edited ones."""
    import torch

    from gcsearch.export import edited

    target = _target(output, "edited", is_image=True)
    found = edited(model, references, rule, steps=steps, levels=levels, seed=seed)
    if target.suffix == ".png":
        columns = min(COLUMNS, len(references))
        rows = []
        for first in range(0, len(references), columns):
            for part in (found.references, found.seen, found.images):
                row = part[first : first + columns]
                rows.append(torch.cat([row, torch.full_like(part[: columns - len(row)], GREY)]))
        _write(target, torch.cat(rows), columns)
    else:
        _write(target, found.images)
    _tell(target, "edited images", len(references), found.num_evaluations, seed, as_json=as_json)


def _references(model: LoadedModel, path: Path | None, num: int | None) -> Tensor:
    """Images to edit: a file, those of a folder, or the first of the training set."""
    from gcsearch.metrics.image_folder import read_image, read_images

    data = model.experiment.data
    if len(data.event_shape) != 3:
        raise ConfigError(f"--edit: must be applied to a model of images, but this one draws points ({data.name}).")
    if path is None:
        examples = data.load()
        if num is not None and num > len(examples):
            raise ConfigError(f"--num {num}: must be at most {len(examples)}, the size of '{data.name}'.")
        return examples.values[: num or NUM_EDITED].clone()
    if path.is_file():
        return read_image(path, data.event_shape)[None]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder. Check --images.")
    return read_images(path, data.event_shape)[:num]


def _with_mask(rule: Any, path: Path | None) -> Any:
    """The edit with the pixels to draw read from a picture: white ones are drawn."""
    if path is None:
        return rule
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    fields = {"name": rule} if isinstance(rule, str) else dict(rule)
    if fields.get("name") != "inpaint":
        raise ConfigError(f"--mask {path}: belongs to --edit inpaint only, got --edit {fields.get('name')}.")
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L")) > 127
    except (UnidentifiedImageError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: must be a readable image, but is not ({reason}). Check --mask.") from None
    return fields | {"mask": pixels.astype(int).tolist()}


def _target(output: Path | None, stem: str, *, is_image: bool) -> Path:
    """Where to write, checked before anything is drawn."""
    target = output or Path(f"{stem}.png" if is_image else f"{stem}.csv")
    if not is_image and target.suffix != ".csv":
        raise ConfigError(f"--output {target}: samples of this model are points; name a .csv file.")
    if is_image and target.suffix not in (".png", ""):
        raise ConfigError(f"--output {target}: must be a .png file for a grid, or a folder for single images.")
    return target


def _write(target: Path, samples: Tensor, columns: int = COLUMNS) -> None:
    from gcsearch.metrics.grid import write_png

    if target.suffix == ".csv":
        text = "\n".join(",".join(f"{value:.8g}" for value in row) for row in samples.flatten(1).tolist())
        write_text(target, text + "\n")
    elif target.suffix == ".png":
        write_png(target, samples, columns)
    else:
        target.mkdir(parents=True, exist_ok=True)
        for index in range(len(samples)):
            write_png(target / f"{index:06d}.png", samples[index : index + 1], columns=1, scale=1)


def _tell(target: Path, what: str, num: int, evaluations: int, seed: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"output": str(target), "num": num, "steps": evaluations, "seed": seed})
    else:
        results.print(f"{num} {what}, {evaluations} network evaluation(s) each, seed {seed}: {target}")


def _levels(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--levels must be numbers with commas, for example 0.8,0.2, got '{text}'.") from None
