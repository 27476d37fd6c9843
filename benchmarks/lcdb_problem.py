"""A problem from measured learning curves: the Learning Curve Database, which its package carries.

    pip install -e '.[benchmarks]'

The database has the error rates of 20 classifiers of scikit-learn on 246 data sets, after training on 16 examples and
more, 25 times each with other splits. Here a recipe is one classifier for each of NUM_DATA_SETS data sets, and images
are examples of training. The seed draws the data sets from those that are large enough and complete.

Source: Mohr et al. 2022, "LCDB 1.0", ECML PKDD.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray
from problem import Evaluate, Params, Problem, random_of

Curves = dict[tuple[int, str], NDArray[Any]]
"""(data set, classifier) -> (repetitions, rungs, 2) error rates, on validation and on test examples."""

RUNGS = (81, 243, 729, 2187)
"""Examples; the database's own sizes are multiples of the root of 2, and rates are interpolated in their logarithm."""

NUM_DATA_SETS = 3
NUM_CLASSIFIERS = 20


def database() -> Path:
    """The file of error rates. The package itself is not imported.

    Raises:
        SystemExit: The package is not installed.
    """
    spec = find_spec("lcdb")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("search_engine.py: lcdb is not installed; pip install -e '.[benchmarks]', or name --problems")
    return Path(spec.submodule_search_locations[0]) / "database-accuracy.csv"


@lru_cache(maxsize=1)
def read_curves(path: Path) -> Curves:
    """Curves of the data sets that have all classifiers up to the last of RUNGS."""
    columns = ["openmlid", "learner", "size_train", "outer_seed", "inner_seed", "score_valid", "score_test"]
    table = pyarrow.csv.read_csv(path, convert_options=pyarrow.csv.ConvertOptions(include_columns=columns))
    order = pc.sort_indices(table, [(name, "ascending") for name in columns[:2] + columns[3:5] + columns[2:3]])
    table = table.take(order)
    keys = list(zip(*(table[name].to_pylist() for name in ("openmlid", "learner", *columns[3:5])), strict=True))
    sizes, errors = table["size_train"].to_numpy(), 1 - np.stack([table[name].to_numpy() for name in columns[-2:]], 1)
    found: dict[tuple[int, str], list[NDArray[Any]]] = {}
    begins = [index for index in range(len(keys)) if index == 0 or keys[index] != keys[index - 1]]
    for begin, end in zip(begins, [*begins[1:], len(keys)], strict=True):
        if sizes[end - 1] >= RUNGS[-1] and np.isfinite(errors[begin:end]).all():
            at = np.log(sizes[begin:end])
            curve = [np.interp(np.log(RUNGS), at, errors[begin:end, column]) for column in (0, 1)]
            found.setdefault(keys[begin][:2], []).append(np.stack(curve, axis=1))
    classifiers: dict[int, int] = {}
    for data_set, _ in found:
        classifiers[data_set] = classifiers.get(data_set, 0) + 1
    return {key: np.stack(curves) for key, curves in found.items() if classifiers[key[0]] == NUM_CLASSIFIERS}


def lcdb(seed: int) -> Problem:
    """Mean error rate of one classifier for each data set: of one split in validation, of all in test."""
    curves = read_curves(database())
    data_sets = sorted({data_set for data_set, _ in curves})
    chosen = np.random.default_rng(seed).choice(data_sets, NUM_DATA_SETS, replace=False).tolist()
    classifiers = sorted({classifier for _, classifier in curves})

    def of(params: Params) -> list[NDArray[Any]]:
        return [curves[data_set, params[f"data_set_{data_set}"]] for data_set in chosen]

    def score(params: Params, images: int) -> float:
        return float(np.mean([one[:, RUNGS.index(images), 1].mean() for one in of(params)]))

    def observe(seed: int) -> Evaluate:
        def evaluate(params: Params, images: int) -> float:
            random = random_of(seed, params)
            splits = [one[random.integers(len(one))] for one in of(params)]
            return float(np.mean([one[RUNGS.index(images), 0] for one in splits]))

        return evaluate

    best = np.mean([min(curves[one, name][:, -1, 1].mean() for name in classifiers) for one in chosen])
    space = {f"data_set_{one}": {"values": classifiers} for one in chosen}
    return Problem(space=space, horizon=RUNGS[-1], min_images=RUNGS[0], best=float(best), score=score, observe=observe)
