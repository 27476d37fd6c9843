"""Scores at more network evaluations beside those of one: what they are, and that they change nothing else."""

import pytest

from gcsearch.training import Trainer

TWO = {"name": "multistep", "levels": [0.8]}
THREE = {"name": "multistep", "levels": [5.0, 0.8]}


def trained(tiny, digits, **evaluation):
    experiment = tiny(training={"num_images": 1_000}, evaluation={"metrics": ["fid", "kid"], **evaluation})
    return Trainer(experiment, examples=digits).fit()


@pytest.fixture
def both(tiny, digits):
    return trained(tiny, digits, further_samplers=[TWO, THREE])


@pytest.mark.parametrize(("sampler", "ending"), [(TWO, "_2step"), (THREE, "_3step")])
def test_they_are_the_scores_of_a_training_with_that_sampler(tiny, digits, both, sampler, ending):
    for ours, alone in zip(both.results, trained(tiny, digits, sampler=sampler).results, strict=True):
        for key in ("eval/fid", "eval/fid_debiased", "eval/kid"):
            assert ours.metrics[f"{key}{ending}"] == alone.metrics[key]
            assert ours.identities[f"{key}{ending}"] == alone.identities[key]


def test_they_change_no_other_number(tiny, digits, both):
    for ours, alone in zip(both.results, trained(tiny, digits).results, strict=True):
        mine = {name: value for name, value in ours.metrics.items() if not name.endswith("step") or name == "cost/step"}
        assert list(mine) == list(alone.metrics)
        for name, value in alone.metrics.items():
            if "seconds" not in name and "per_second" not in name:
                assert mine[name] == value


def test_keys_of_an_evaluation_are_those_it_reports(tiny, digits, both):
    evaluation = tiny(evaluation={"metrics": ["fid", "kid"], "further_samplers": [TWO, THREE]}).evaluation
    assert {f"eval/{key}" for key in evaluation.score_keys} == {
        name for name in both.results[-1].metrics if name.startswith("eval/")
    }
    assert set(both.results[-1].identities) == {f"eval/{key}" for key in evaluation.score_keys}
