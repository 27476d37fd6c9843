"""Record learning curves of random recipes on the digits: the table behind `search_engine.py`'s problem `digits`.

    python benchmarks/record_digits_curves.py --minutes 25

Recipes are drawn at random from search_spaces/mu_schedule.yaml, recipe n from (0, n), and trained one after the other
on one core for HORIZON images, with FID (digits features, 2,000 samples) at every RUNG. The file is written after
every recipe and a later call goes on where it ends, so it may be interrupted at any time. A rung that a diverged
training did not reach is null.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from gcsearch.config import Experiment, read_document
from gcsearch.files import write_text
from gcsearch.training import Trainer
from gcsearch.tuning.samplers import RandomChooser
from gcsearch.tuning.space_parser import parse_space

ROOT = Path(__file__).parent.parent
TABLE = Path(__file__).parent / "data" / "digits_curves.json"
HORIZON = 54_000
EVERY = 6_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=int, default=300, help="Recipes in the table when it is complete.")
    parser.add_argument("--minutes", type=float, default=25.0, help="Start no further recipe after this time.")
    parser.add_argument("--output", type=Path, default=TABLE)
    options = parser.parse_args()

    torch.set_num_threads(1)
    document = read_document(ROOT / "search_spaces" / "mu_schedule.yaml")
    space = parse_space(document.data["space"], document)
    base = read_document(ROOT / "experiments" / "digits.yaml").with_assignments(
        [f"training.num_images={HORIZON}", f"evaluation.every_images={EVERY}", "evaluation.metrics=[fid]"]
    )
    experiment = Experiment.from_document(base)
    table = _read(options.output, experiment, document.data["space"])
    examples = experiment.data.load()
    deadline = time.monotonic() + 60 * options.minutes
    while len(table["recipes"]) < options.recipes and time.monotonic() < deadline:
        params, recipe = space.draw(RandomChooser(0, len(table["recipes"])), base)
        start = time.monotonic()
        outcome = Trainer(Experiment.from_document(recipe), examples=examples).fit()
        scores = {result.images: round(result.metrics["eval/fid"], 4) for result in outcome.results}
        curve = [scores.get(rung) for rung in table["rungs"]]
        table["recipes"].append({"params": params, "fid": curve, "seconds": round(time.monotonic() - start, 2)})
        _write(options.output, table)


def _read(path: Path, experiment: Experiment, space: dict[str, Any]) -> dict[str, Any]:
    """The table so far; refuses one of another space or horizon."""
    table = {"experiment": experiment.to_dict(), "space": space, "rungs": list(experiment.rungs)}
    if not path.exists():
        return table | {"recipes": []}
    known: dict[str, Any] = json.loads(path.read_text())
    if any(known[key] != json.loads(json.dumps(value)) for key, value in table.items()):
        raise SystemExit(f"{path}: its space or experiment is another one. Give another --output, or remove the file.")
    return known


def _write(path: Path, table: dict[str, Any]) -> None:
    """One recipe a line."""
    head = json.dumps({key: value for key, value in table.items() if key != "recipes"})[:-1]
    lines = ",\n".join(json.dumps(recipe) for recipe in table["recipes"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f'{head}, "recipes": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
