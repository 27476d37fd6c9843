"""What the trials of a study need is fetched, and their teachers are trained, before it begins."""

from __future__ import annotations

import pytest

from gcsearch.errors import TeacherError, WeightsError
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


# Teachers ---------------------------------------------------------------------------------------------------------


TEACHER = {"name": "trained", "num_images": 64, "batch_size": 32}


def distilled(solver="heun", **fields):
    return {"name": "consistency_distillation", "solver": solver, "teacher": {**TEACHER, **fields}}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own."""
    monkeypatch.setenv("GCSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.slow
def test_trials_of_a_study_share_their_teachers(make_study, cache):
    values = ["consistency", distilled(), distilled("euler"), {"name": "ect", "teacher": TEACHER}]
    lr = {"min": 1e-4, "max": 1e-2, "scale": "log"}
    lines = []
    study = make_study(space={"objective": {"values": values}, "optimizer.lr": lr})
    (record,) = study.prepare(lines.append)
    assert len(list((cache / "teachers").iterdir())) == 1
    assert lines[0].startswith("Training the teacher ")
    assert lines[1].startswith(f"Teacher {record.fingerprint[:16]}: 64 images")
    assert study.prepare(lines.append) == [record]
    assert len(lines) == 3


@pytest.mark.slow
def test_what_a_teacher_takes_from_the_search_makes_a_teacher_each(make_study, cache):
    study = make_study(space={"objective": {"values": [distilled(), distilled(seed=1)]}})
    assert len(study.prepare()) == len(list((cache / "teachers").iterdir())) == 2


@pytest.mark.usefixtures("cache")
def test_study_whose_teacher_diverges_is_refused_before_anything_is_written(make_study, tmp_path, monkeypatch):
    monkeypatch.setattr("gcsearch.tuning.study.ray_cluster", None)
    wild = distilled(optimizer={"name": "adam", "lr": 1e30})
    study = make_study(space={"objective": {"values": ["consistency", wild]}})
    with pytest.raises(TeacherError, match=r"^objective\.teacher: its training must end well, but it diverged"):
        run_study(study, tmp_path / "studies")
    assert not (tmp_path / "studies").exists()
