"""The weights that `use: best` hands over are those of the experiment's first metric, so no other may be asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcsearch.config.documents import dump_yaml
from gcsearch.errors import ConfigError
from gcsearch.tuning.spec import load_study

EXPERIMENT = {"name": "base", "data": "digits", "network": "mlp", "evaluation": {"metrics": ["fid", "kid"]}}


def write(folder: Path, metric: str, use: str) -> Path:
    (folder / "base.yaml").write_text(dump_yaml(EXPERIMENT))
    study = {
        "experiment": "base.yaml",
        "objective": {"metric": metric, "use": use},
        "space": {"coupling.mu": {"min": 0.0, "max": 1.0}},
    }
    (folder / "study.yaml").write_text(dump_yaml(study))
    return folder / "study.yaml"


@pytest.mark.parametrize(("metric", "use"), [("fid", "best"), ("kid", "last"), ("fid", "last")])
def test_the_first_metric_may_count_at_its_best_and_any_at_its_last(tmp_path: Path, metric: str, use: str) -> None:
    assert load_study(write(tmp_path, metric, use)).objective.use == use


@pytest.mark.parametrize("metric", ["kid", "fid_online", "fid_debiased"])
def test_another_metric_cannot_count_at_its_best(tmp_path: Path, metric: str) -> None:
    with pytest.raises(ConfigError, match=f"first of evaluation.metrics.*got '{metric}'"):
        load_study(write(tmp_path, metric, "best"))
