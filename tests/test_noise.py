"""The noise ledger: measured on real weights, resumed, read, and used by plans and reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gcsearch.ablations import Contrast, Plan
from gcsearch.analysis.ablation import ablation_results
from gcsearch.analysis.noise import known_noise, noise_sentences
from gcsearch.analysis.report.ablation_figures import noise_figure
from gcsearch.analysis.report.ablation_tables import noise_table
from gcsearch.analysis.report.drawing import save, style
from gcsearch.analysis.results import open_results
from gcsearch.config import Experiment
from gcsearch.config.documents import dump_yaml
from gcsearch.errors import StudyError
from gcsearch.ledger import LEDGER_NAME, StudyState, read_events, read_state
from gcsearch.noise import read_noise
from gcsearch.noise_measurement import NUM_DRAWS, measure_noise
from gcsearch.statistics import Margin, crossed_components, paired_power
from gcsearch.training.session import run_training

from .cli.command import gcsearch

TINY = {
    "name": "tiny",
    "data": "digits",
    "network": {"name": "mlp", "width": 16},
    "process": {"name": "ve", "sigma_data": 0.75},
    "coupling": "independent",
    "training": {"num_images": 1_024, "batch_size": 32},
    "evaluation": {"every_images": 1_024, "num_samples": 64, "metrics": ["fid"], "further_samplers": ["multistep"]},
}
ABLATION = {"name": "coupling", "experiment": "tiny.yaml", "factors": {"coupling": ["ot"]}, "seeds": [0, 1, 2]}
SEEDS = (0, 1, 2)
PLAN = Plan(
    arms=("baseline", "coupling=ot"),
    contrasts=(Contrast(name="coupling=ot", plus=("coupling=ot",), minus=("baseline",), reference="baseline"),),
    seeds=SEEDS,
    looks=(3,),
    key="eval/fid",
    lower_is_better=True,
    margin=Margin(value=0.013),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with an ablation whose baseline is really trained; its other arm has made-up scores."""
    home = tmp_path_factory.mktemp("noise")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = home / "studies" / "coupling"
        objective = {"metric": "fid", "key": "eval/fid", "goal": "minimize", "use": "last"}
        start = {"study": "coupling", "objective": objective, "keys": ["coupling"], "horizon_images": 1_024}
        events = [{"event": "study_started", **start, "ablation": PLAN.to_dict(), "provenance": {}}]
        for seed in SEEDS:
            experiment = Experiment.from_dict(TINY | {"seed": seed})
            run_training(experiment, folder / f"trials/00-s{seed}")
            (own,) = read_state(folder / f"trials/00-s{seed}" / LEDGER_NAME).trials.values()
            last = own.results[-1]
            started = {"kind": "arm", "seed": seed, "config": own.config, "recipe": experiment.recipe_fingerprint}
            score = {"images": last.images, "identities": last.identities}
            other = last.metrics | {"eval/fid": last.metrics["eval/fid"] * 0.9 + seed}
            for index, (arm, metrics) in enumerate(zip(PLAN.arms, (last.metrics, other), strict=True)):
                trial = {"trial": f"{index:02d}-s{seed}"}
                events.append({"event": "trial_started", **trial, "arm": arm, **started})
                events.append({"event": "result", **trial, **score, "metrics": metrics})
                events.append({"event": "trial_ended", **trial, "state": "completed"})
        events.append({"event": "study_ended"})
        lines = [json.dumps({"time": "2026-01-01T00:00:00+00:00"} | event) + "\n" for event in events]
        (folder / LEDGER_NAME).write_text("".join(lines))
        measure_noise(folder)
        (home / "tiny.yaml").write_text(dump_yaml(TINY))
        (home / "coupling.yaml").write_text(dump_yaml(ABLATION))
        yield home


def test_the_scores_on_the_first_latents_are_those_of_the_trainings(trained):
    state = read_state(trained / "studies/coupling" / LEDGER_NAME)
    first = [event for event in state.noise if (event["latents_seed"], event["num_samples"]) == (0, 64)]
    assert [event["trial"] for event in first] == [f"00-s{seed}" for seed in SEEDS]
    for event in first:
        assert {"eval/fid", "eval/fid_2step"} < set(event["metrics"]) == set(event["identities"])
        for key, value in event["metrics"].items():
            assert value == state.trials[event["trial"]].value(key)
            assert event["identities"][key] == state.trials[event["trial"]].results[-1].identities[key]


def test_a_measurement_goes_on_where_it_stopped(trained, tmp_path):
    folder = trained / "studies/coupling"
    assert measure_noise(folder) == 0
    events = read_events(folder / LEDGER_NAME)
    whole = StudyState(events)
    assert {event["num_samples"] for event in whole.noise} == {16, 32, 64}
    assert len(whole.noise) == len(SEEDS) * NUM_DRAWS * 3
    (tmp_path / "trials").symlink_to(folder / "trials")
    (tmp_path / LEDGER_NAME).write_text("".join(json.dumps(event) + "\n" for event in events[:-4]))
    assert measure_noise(tmp_path) == 2  # the last set of latents, and the one whose last size is missing
    assert read_noise(read_state(tmp_path / LEDGER_NAME)) == read_noise(whole)


def test_components_are_those_of_the_table_of_scores(trained):
    state = read_state(trained / "studies/coupling" / LEDGER_NAME)
    noise = read_noise(state)
    table = [
        [event["metrics"]["eval/fid"] for event in state.noise if (event["trial"], event["num_samples"]) == (trial, 64)]
        for trial in ("00-s0", "00-s1", "00-s2")
    ]
    assert noise.components == crossed_components(table)
    assert noise.num_samples == 64
    assert noise.bias.mean > 0  # FID of few samples is too high
    assert len(noise_sentences(noise)) == 3
    one_draw = [event for event in state.noise if event["latents_seed"] == 0]
    state.noise = one_draw
    assert read_noise(state) is None


def test_the_bias_of_few_samples_is_that_of_a_score_made_with_one(trained):
    state = read_state(trained / "studies/coupling" / LEDGER_NAME)
    for event in state.noise:
        training, latents = state.trials[event["trial"]].seed, event["latents_seed"]
        event["metrics"]["eval/fid"] = 5 + 3 * training**2 + 0.1 * latents**2 + 100 / event["num_samples"]
    noise = read_noise(state)
    assert (noise.bias.mean, noise.bias.low, noise.bias.high) == pytest.approx((100 / 64,) * 3)
    assert noise.components.both.value == pytest.approx(0, abs=1e-12)


def test_plan_says_which_gap_the_measured_noise_lets_seeds_tell(trained):
    noise = read_noise(read_state(trained / "studies/coupling" / LEDGER_NAME))
    done = gcsearch("plan", "coupling.yaml", "--json", cwd=trained)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["noise"]["study"] == "coupling"
    assert plan["noise"]["deviation"]["value"] == pytest.approx(noise.deviation.value)
    scores = [read_state(trained / "studies/coupling" / LEDGER_NAME).trials[f"0{i}-s{s}"].value("eval/fid")
              for i in (0, 1) for s in SEEDS]  # fmt: skip
    correlation = min(0.99, np.corrcoef(scores[:3], scores[3:])[0, 1])
    assert plan["correlation"] == pytest.approx(correlation)
    assert paired_power(plan["gap"][0], noise.deviation.value, 3, correlation) == pytest.approx(0.8)
    other = gcsearch("plan", "coupling.yaml", "--set", "optimizer.lr=1e-3", "--json", cwd=trained)
    assert json.loads(other.stdout)["noise"] is None


def test_without_a_measurement_the_spread_over_seeds_is_known(trained, tmp_path):
    folder = trained / "studies/coupling"
    state = read_state(folder / LEDGER_NAME)
    (tmp_path / "coupling").mkdir()
    events = [event for event in read_events(folder / LEDGER_NAME) if event["event"] != "noise_scored"]
    (tmp_path / "coupling" / LEDGER_NAME).write_text("".join(json.dumps(event) + "\n" for event in events))
    known = known_noise(tmp_path, state.trials["00-s0"].recipe, "eval/fid")
    values = [state.trials[f"00-s{seed}"].value("eval/fid") for seed in SEEDS]
    assert not known.is_measured
    assert known.deviation.value == pytest.approx(np.std(values, ddof=1) / np.mean(values))
    assert known_noise(tmp_path, "another recipe", "eval/fid") is None
    assert known_noise(tmp_path, state.trials["00-s0"].recipe, "eval/kid") is None


def test_show_and_report_say_what_the_noise_is(trained, tmp_path):
    shown = gcsearch("show", "coupling", cwd=trained)
    assert "another training seed moves fid by" in " ".join((shown.stdout + shown.stderr).split())
    assert json.loads(gcsearch("show", "coupling", "--json", cwd=trained).stdout)["noise"]["by_size"][0]["num_samples"]
    results = open_results(trained / "studies/coupling")
    found = ablation_results(results)
    with style():
        assert save(noise_figure(results, found), tmp_path)["png"]
    table = {row["num_samples"]: row for row in noise_table(found).rows}
    assert table[64]["training"] == pytest.approx(found.noise.components.training.value**0.5)


def test_one_training_has_no_noise_to_measure(trained, tmp_path):
    events = read_events(trained / "studies/coupling" / LEDGER_NAME)
    (tmp_path / LEDGER_NAME).write_text("".join(json.dumps(event) + "\n" for event in events[:4]))
    with pytest.raises(StudyError, match="at least two trainings of the arm 'baseline' must have completed"):
        measure_noise(Path(tmp_path))
