"""The folder of a diagnosis: what was measured is not measured again, and nothing else is taken for it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from gcsearch.science.couplings import Generator
from gcsearch.training import Trainer
from gcsearch.training.diagnosis import Diagnosis, DiagnosisSettings
from gcsearch.training.diagnosis_session import arm_identity, run_diagnosis
from gcsearch.training.step import Learner

QUICK = DiagnosisSettings(num_batches=2, denoiser_steps=2, num_levels=2)
ARMS = [(coupling, seed) for seed in (0, 1) for coupling in ("independent", "generator")]


@pytest.fixture
def diagnosis(tiny, points):
    """Points, six steps, one evaluation."""
    return Diagnosis(tiny(points, training={"num_images": 192}, evaluation={"every_images": 192}), QUICK)


@pytest.fixture
def run(tmp_path):
    """Runs all arms in a folder; returns the rows and which arms were read."""

    def make(diagnosis, folder="run", **options):
        told = []
        rows = run_diagnosis(
            diagnosis,
            ["generator", "independent"],
            [0, 1],
            tmp_path / folder,
            on_arm=lambda *arm: told.append(arm),
            **options,
        )
        return rows, told

    return make


def test_interrupted_after_every_arm_and_resumed_equals_uninterrupted(diagnosis, run, tmp_path, monkeypatch):
    expected, told = run(diagnosis, "whole")
    assert told == [(*arm, False) for arm in ARMS]
    found = [(row.coupling, row.seed) for row in expected]
    assert found == sorted(found, key=ARMS.index)

    measure, started = Diagnosis.arm, []

    def only_one(self, coupling, seed):
        if started:
            raise KeyboardInterrupt
        started.append((coupling, seed))
        return measure(self, coupling, seed)

    for number in range(1, len(ARMS)):
        started.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Diagnosis, "arm", only_one)
            with pytest.raises(KeyboardInterrupt):
                run(diagnosis)
        assert started == [ARMS[number - 1]]
        assert len(list((tmp_path / "run" / "arms").iterdir())) == number  # and no half of a file
    rows, told = run(diagnosis)
    assert rows == expected
    assert told == [(*arm, arm != ARMS[-1]) for arm in ARMS]


def test_another_recipe_other_settings_other_weights_and_a_damaged_file_are_measured_again(diagnosis, tmp_path):
    def was_read(diagnosis):
        told = []
        run_diagnosis(diagnosis, ["generator"], [0], tmp_path, on_arm=lambda *arm: told.append(arm))
        return told == [("generator", 0, True)]

    assert [was_read(diagnosis), was_read(diagnosis)] == [False, True]
    longer = Diagnosis(diagnosis.experiment, dataclasses.replace(QUICK, denoiser_steps=3))
    assert not was_read(longer)
    other = dataclasses.replace(diagnosis.experiment, ema=dataclasses.replace(diagnosis.experiment.ema, period=2))
    assert not was_read(Diagnosis(other, longer.settings))

    function = Learner(other, torch.device("cpu")).models.online
    given = Diagnosis(other, longer.settings, weights=function)
    assert [was_read(given), was_read(given)] == [False, True]
    with torch.no_grad():
        next(function.network.parameters()).add_(1e-3)
    assert not was_read(given)

    path = tmp_path / "arms" / "generator_0.json"
    path.write_text(path.read_text()[:-20])
    assert [was_read(given), was_read(given)] == [False, True]


def test_a_frozen_predictor_is_part_of_what_an_arm_is(diagnosis, tmp_path):
    Trainer(diagnosis.experiment, directory=tmp_path / "one").fit()
    Trainer(dataclasses.replace(diagnosis.experiment, seed=1), directory=tmp_path / "two").fit()
    path = tmp_path / "frozen.pt"
    coupling = Generator(predictor="frozen", checkpoint=str(path), mu=1.0)
    frozen = Diagnosis(dataclasses.replace(diagnosis.experiment, coupling=coupling), QUICK)
    identities = []
    for run in ("one", "two"):
        path.write_bytes((tmp_path / run / "checkpoints" / "latest.pt").read_bytes())
        identities.append(arm_identity(frozen, "generator", 0))
    assert identities[0]["frozen_sha256"] != identities[1]["frozen_sha256"]
    given = Diagnosis(frozen.experiment, QUICK, weights=Learner(diagnosis.experiment, frozen.device).models.ema)
    assert given.arm("generator", 0) == given.arm("generator", 0)
