"""The weights that `use: best` hands over are those of the experiment's first metric, so no other may be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from gcsearch.config.documents import dump_yaml
from gcsearch.errors import ConfigError
from gcsearch.tuning.spec import load_study

EXPERIMENT = {"name": "base", "data": "digits", "network": "mlp"}


def write(folder: Path, metric: str, use: str, metrics: Sequence[str] = ("fid", "kid")) -> Path:
    evaluation = {"metrics": [*metrics], "further_samplers": ["multistep"]}
    (folder / "base.yaml").write_text(dump_yaml(EXPERIMENT | {"evaluation": evaluation}))
    study = {
        "experiment": "base.yaml",
        "objective": {"metric": metric, "use": use},
        "space": {"coupling.mu": {"min": 0.0, "max": 1.0}},
    }
    (folder / "study.yaml").write_text(dump_yaml(study))
    return folder / "study.yaml"


@pytest.mark.parametrize(("metric", "use"), [("fid", "best"), ("kid", "last"), ("fid", "last"), ("fid_2step", "last")])
def test_the_first_metric_may_count_at_its_best_and_any_at_its_last(tmp_path: Path, metric: str, use: str) -> None:
    assert load_study(write(tmp_path, metric, use)).objective.use == use


def test_a_study_may_want_few_evaluations_and_quality_at_more(tmp_path: Path) -> None:
    path = write(tmp_path, "fid", "last")
    path.write_text(path.read_text().replace("{metric: fid, use: last}", "[{metric: fid}, {metric: fid_2step}]"))
    assert [one.key for one in load_study(path).objectives] == ["eval/fid", "eval/fid_2step"]


@pytest.mark.parametrize("metric", ["kid", "fid_online", "fid_debiased", "fid_2step"])
def test_another_metric_cannot_count_at_its_best(tmp_path: Path, metric: str) -> None:
    with pytest.raises(ConfigError, match=f"first of evaluation.metrics.*got '{metric}'"):
        load_study(write(tmp_path, metric, "best"))


@pytest.mark.parametrize("metric", ["gradient_variance", "diagnostics/gradient_variance", "diagnostics/path_deviation"])
def test_a_diagnostic_cannot_be_searched_on(tmp_path: Path, metric: str) -> None:
    with pytest.raises(ConfigError, match=f"got '{metric}'. A diagnostic is not comparable across schedules, and gen"):
        load_study(write(tmp_path, metric, "last", metrics=["fid", "diagnostics"]))


def test_diagnostics_do_not_stand_in_the_way_of_a_score(tmp_path: Path) -> None:
    assert load_study(write(tmp_path, "fid", "best", metrics=["fid", "diagnostics"])).objective.key == "eval/fid"
