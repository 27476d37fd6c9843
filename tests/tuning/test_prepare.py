"""A study whose trials need published weights asks for them before it begins."""

from __future__ import annotations

import pytest

from gcsearch.errors import WeightsError
from gcsearch.tuning.study import run_study

SPACE = {"distance": {"values": ["pseudo_huber", {"name": "lpips", "size": {"min": 16, "max": 32}}]}}


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """The folder of the weights, which is not there."""
    monkeypatch.setenv("GCSEARCH_LPIPS", str(tmp_path / "nowhere"))
    return tmp_path / "nowhere"


def test_study_that_may_need_weights_is_refused_before_anything_is_written(make_study, nowhere, tmp_path, monkeypatch):
    monkeypatch.setattr("gcsearch.tuning.study.ray_cluster", None)  # a study that began all the same would fail here
    study = make_study(space=SPACE)
    with pytest.raises(WeightsError, match=f"^{nowhere}: must hold "):
        run_study(study, tmp_path / "studies")
    assert not (tmp_path / "studies").exists()


def test_study_with_weights_is_ready(make_study, lpips_weights):
    lpips_weights()
    make_study(space=SPACE).prepare()


@pytest.mark.usefixtures("nowhere")
def test_study_without_the_distance_needs_no_weights(make_study):
    make_study().prepare()
