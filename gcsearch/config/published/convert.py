"""A published file as an experiment: recognise it, map it, check the result, write it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from gcsearch.config.build import build, build_settings
from gcsearch.config.documents import Document, KeyPath, dump_yaml
from gcsearch.config.published import keys, model, training
from gcsearch.config.published.keys import NetworkConfig, TopLevel, TrainConfig
from gcsearch.config.published.notes import Mapped, Note, Section, inline
from gcsearch.config.sections import Evaluation, Training
from gcsearch.errors import ConfigError
from gcsearch.registry import registries

COMMENT_WIDTH = 110


def import_published(document: Document) -> tuple[dict[str, Any], list[Note]]:
    """Experiment of a published configuration, and what there is to say about it.

    Args:
        document: The published file.

    Returns:
        Plain data of an experiment file, in the order of its sections, and the remarks. The data loads with
        `load_experiment` where its data set is registered.

    Raises:
        ConfigError: The file is of another family, or holds a value that means nothing or has no counterpart here.
    """
    _check_family(document)
    top = Section(document, "", TopLevel, skip=("train_config", "generator"))
    train = Section(document, "train_config", TrainConfig)
    network = Section(document, "generator", NetworkConfig)
    sections: dict[str, Mapped] = {
        "data": model.data_section(top, network),
        "network": model.network_section(train, network),
        "process": model.process_section(train, network),
        "timesteps": training.timesteps_section(train),
        "levels": training.levels_section(),
        "weighting": ({"name": "inverse_gap"}, []),
        "coupling": training.coupling_section(train),
        "objective": ({"name": "consistency"}, []),
        "distance": training.distance_section(train),
        "optimizer": training.optimizer_section(top),
        "ema": training.ema_section(train),
        "training": training.training_section(top, train, network),
        "evaluation": training.evaluation_section(top, train),
    }
    seed = Note(
        kind="fixed", key="manualSeed", here="seed", becomes=keys.SEED, why="Its random numbers are not repeated."
    )
    notes = [*_about_the_file(train), top.note("name_exp", "name", top.values.name_exp), seed]
    notes += [note for _, remarks in sections.values() for note in remarks]
    notes += [note for section in (top, train, network) for note in section.left_out()]
    experiment = {"name": top.values.name_exp, "seed": keys.SEED} | {key: part for key, (part, _) in sections.items()}
    notes += _check(experiment, notes, document, network.values)
    return experiment, notes


def _check_family(document: Document) -> None:
    """Refuse a file that is not a configuration of that code."""
    if "train_config" in document.data and "generator" in document.data:
        return
    hint = "It looks like an experiment file of gcsearch, which needs no import." if "data" in document.data else ""
    raise ConfigError(
        f"{document.source}: must be a configuration of the GC paper's code, which has the sections train_config and "
        f"generator, got the keys {', '.join(map(inline, list(document.data)[:8]))}. {hint}".rstrip()
    )


def _about_the_file(train: Section[TrainConfig]) -> list[Note]:
    """Remarks on the file as a whole: would that code run it, and from where."""
    notes, target = [], train.values._target_
    if target != keys.TRAIN_CONFIG:
        absent = target == keys.ABSENT_TRAIN_CONFIG
        why = "That class is not in the published code, so the file fails there" if absent else "Unknown to that code"
        notes.append(train.note("_target_", "", None, f"{why}; read as {keys.TRAIN_CONFIG}.", attention=True))
    if train.values.path is not None:
        why = "A checkpoint that training starts from there. It is not imported."
        notes.append(train.note("path", "", None, why, attention=True))
    return notes


def _check(experiment: dict[str, Any], notes: Sequence[Note], document: Document, network: NetworkConfig) -> list[Note]:
    """Build what was mapped, so that an illegal value is reported at its line in the published file."""
    places: dict[KeyPath, str] = {}
    for note in notes:
        if note.here and (place := document.places.get(tuple(note.key.split(".")))):
            places.setdefault(tuple(note.here.split(".")), place)
    mapped = Document(experiment, document.source, places)
    build_settings(Training, experiment["training"], mapped, ("training",))
    build_settings(Evaluation, experiment["evaluation"], mapped, ("evaluation",))
    missing = []
    for kind, spec in experiment.items():
        if kind not in registries:
            continue
        if spec["name"] not in registries[kind]:
            word = "data set" if kind == "data" else kind
            why = f"This gcsearch has no {word} of that name, so the file does not load as it is."
            missing.append(Note(kind="attention", key=f"{kind}.name", value=spec["name"], here=kind, why=why))
        elif kind != "data":
            component = build(kind, spec, mapped, (kind,))
            if kind == "network":
                _check_size(component, network, document)
    return missing


def _check_size(component: Any, network: NetworkConfig, document: Document) -> None:
    """Whether the network fits the images it was written for."""
    try:
        component.check((network.img_channels, network.img_resolution, network.img_resolution))
    except ValueError as error:
        raise ConfigError(f"{document.where(('generator', 'img_resolution'))}: generator: {error}.") from None


def imported_yaml(experiment: dict[str, Any], notes: Sequence[Note], source: str) -> str:
    """Text of the experiment file; each section follows the remarks about it, the rest stands at the top.

    Args:
        experiment: What `import_published` returned.
        notes: The remarks, of which those that explain something stay with the file.
        source: Name of the published file.
    """
    told = [note for note in notes if note.why and note.kind != "unused"]
    head = _comment(f"Imported from {inline(source)}, a configuration of the GC paper's code (arXiv:2406.09570).")
    head += "".join(_remark(note) for note in told if not note.here)
    if unused := [inline(note.key) for note in notes if note.kind == "unused"]:
        head += _comment(f"Without effect there, and left out: {', '.join(unused)}.")
    parts = [head]
    for key, value in experiment.items():
        parts += [_remark(note) for note in told if note.here.split(".")[0] == key]
        parts.append(dump_yaml({key: value}))
    return "".join(parts)


def _remark(note: Note) -> str:
    prefix = "ATTENTION: " if note.kind == "attention" else ""
    fact = f"{note.there} -> {note.result}" if note.result else note.there
    return _comment(f"{prefix}{fact}. {note.why}")


def _comment(text: str) -> str:
    """Text as comment lines; `inline` has escaped whatever a file could end a line with."""
    lines = textwrap.wrap(text, COMMENT_WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)
