"""Search spaces and study files: what they may say and what they mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcsearch.config import Document, Experiment
from gcsearch.errors import ConfigError
from gcsearch.tuning.samplers import RandomChooser, Recorder
from gcsearch.tuning.space import Choice, FixedChooser, Range, parameter_key
from gcsearch.tuning.space_parser import parse_space
from gcsearch.tuning.spec import load_study
from gcsearch.tuning.stopping import ASHA, NoStopping

REPOSITORY = Path(__file__).parents[2]

RICH = {
    "coupling.mu": {"min": 0.0, "max": 1},
    "coupling.predictor": {"values": ["ema", "online"]},
    "timesteps": {
        "values": [
            {"name": "fixed", "num_levels": {"values": [10, 20]}},
            {"name": "exponential", "s0": 10, "s1": {"min": 40, "max": 160, "scale": "log"}},
        ]
    },
    "optimizer": {
        "values": [
            {"name": "lion", "betas": [0.9, 0.99], "lr": {"min": 1e-5, "max": 1e-3, "scale": "log"}},
            {"name": "lion", "betas": [0.8, 0.99], "lr": {"min": 1e-4, "max": 1e-3, "scale": "log"}},
            {"name": "adam", "lr": {"min": 5e-5, "max": 5e-3, "scale": "log"}},
        ]
    },
    "ema.period": {"min": 1, "max": 5},
    "network.dropout": {"min": 0.0, "max": 0.3, "when": {"timesteps.name": "exponential"}},
    "ema.max_decay": {"values": [0.99, 0.999], "when": {"optimizer.name": ["adam", "radam"], "network.name": "mlp"}},
}


def parsed(space):
    return parse_space(space, Document({"space": space}))


def flat_draws(study, count=200, seed=0):
    return [study.space.draw(RandomChooser(seed, number), study.base)[0] for number in range(count)]


# The grammar


def test_a_range_has_its_ends_its_scale_and_is_integer_if_both_ends_are():
    space = parsed(
        {
            "a": {"min": 0.5, "max": 2},
            "b": {"min": 1, "max": 8},
            "c": {"min": 1e-4, "max": 1.0, "scale": "log"},
            "d": {"min": -1, "max": 1, "scale": "linear"},
        }
    )
    assert [entry.node for entry in space.entries] == [
        Range(low=0.5, high=2),
        Range(low=1, high=8, is_integer=True),
        Range(low=1e-4, high=1.0, is_log=True),
        Range(low=-1, high=1, is_integer=True),
    ]


def test_a_choice_has_scalars_lists_and_null_as_options():
    (entry,) = parsed({"a": {"values": [1, 0.5, "word", None, [0.9, 0.99]]}}).entries
    assert isinstance(entry.node, Choice)
    assert [option.label for option in entry.node.options] == [1, 0.5, "word", None, "[0.9, 0.99]"]
    assert [option.constant for option in entry.node.options] == [1, 0.5, "word", None, [0.9, 0.99]]


def test_an_option_that_is_a_component_has_constants_and_nodes_of_its_own():
    (entry,) = parsed({"timesteps": RICH["timesteps"]}).entries
    fixed, exponential = entry.node.options
    assert fixed.label == "fixed"
    assert fixed.constant == {"name": "fixed"}
    assert isinstance(fixed.nodes["num_levels"], Choice)
    assert exponential.constant == {"name": "exponential", "s0": 10}
    assert exponential.nodes["s1"] == Range(low=40, high=160, is_log=True, is_integer=True)


def test_two_options_of_one_name_are_told_apart_by_their_constants():
    (entry,) = parsed({"optimizer": RICH["optimizer"]}).entries
    labels = [option.label for option in entry.node.options]
    assert labels == ["lion(betas=[0.9, 0.99])", "lion(betas=[0.8, 0.99])", "adam"]


def test_a_bare_name_and_the_same_component_with_values_are_two_options():
    (entry,) = parsed({"timesteps": {"values": ["fixed", {"name": "fixed", "num_levels": 10}]}}).entries
    assert [option.label for option in entry.node.options] == ["fixed", "fixed(num_levels=10)"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("coupling.mu", "coupling.mu"),
        ("optimizer[lion].lr", "optimizer.lr"),
        ("optimizer[lion(betas=[0.9, 0.99])].lr", "optimizer.lr"),
        ("a[b].c[d(e=[[1], [2]])].f", "a.c.f"),
    ],
)
def test_the_parameter_of_a_node_is_its_name_without_the_options(name, key):
    assert parameter_key(name) == key


def test_the_name_of_a_study_is_the_argument_then_the_file_s_word_then_the_file_s_name(study_file):
    assert load_study(study_file()).name == "study"
    assert load_study(study_file(name="mine")).name == "mine"
    assert load_study(study_file(name="mine"), name="other").name == "other"


def test_the_command_line_replaces_trials_and_parts_of_the_experiment(study_file):
    study = load_study(study_file(budget={"trials": 3}), trials=7, assignments=["network.width=32"])
    assert study.budget.trials == 7
    assert study.experiment.network.width == 32


def test_sections_left_out_have_the_documented_defaults(make_study):
    study = make_study()
    assert isinstance(study.stopping, NoStopping)
    assert (study.objective.metric, study.objective.goal, study.objective.use) == ("fid", "minimize", "last")
    assert study.search.sampler.name == "auto"
    assert study.resources.concurrent == "auto"


@pytest.mark.parametrize(
    ("space", "within", "wanted"),
    [
        ("timesteps", "auto", "timesteps"),
        ("coupling.mu", "auto", None),
        ("timesteps", "none", None),
        ("coupling.mu", "coupling.mu", "coupling.mu"),
    ],
)
def test_auto_compares_inside_the_timestep_schedule_if_that_is_searched(make_study, space, within, wanted):
    stopping = {"name": "asha", "min_images": 800, "within": within}
    assert make_study(space={space: RICH[space]}, stopping=stopping).within == wanted


@pytest.mark.parametrize("path", sorted((REPOSITORY / "search_spaces").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_space_loads_and_its_draws_build(path):
    study = load_study(path)
    for params in flat_draws(study, 50):
        study.experiment_of(params)


# Drawing


def test_drawn_parameters_exist_only_for_the_chosen_option_and_where_their_condition_holds(make_study):
    draws = flat_draws(make_study(space=RICH))
    assert {params["timesteps"] for params in draws} == {"fixed", "exponential"}
    for params in draws:
        is_exponential, is_adam = params["timesteps"] == "exponential", params["optimizer"] == "adam"
        assert ("timesteps.num_levels" in params) == (not is_exponential)
        assert ("timesteps.s1" in params) == is_exponential
        assert ("network.dropout" in params) == is_exponential
        assert ("ema.max_decay" in params) == is_adam
        assert "timesteps.s0" not in params


def test_a_draw_reaches_the_experiment(make_study):
    study = make_study(space=RICH)
    for params in flat_draws(study):
        experiment = study.experiment_of(params)
        assert experiment.coupling.mu == params["coupling.mu"]
        assert experiment.timesteps.name == params["timesteps"]
        assert experiment.optimizer.name == params["optimizer"].split("(")[0]
        assert experiment.optimizer.lr == params["optimizer.lr"]
        if "0.8" in params["optimizer"]:
            assert experiment.optimizer.betas == (0.8, 0.99)
        if "timesteps.s1" in params:
            assert (experiment.timesteps.s0, experiment.timesteps.s1) == (10, params["timesteps.s1"])


def test_integers_stay_integers_and_a_real_field_with_integer_ends_is_continuous(make_study):
    study = make_study(space={"coupling.mu": {"min": 0, "max": 1}, "ema.period": {"min": 1, "max": 9}})
    draws = flat_draws(study)
    assert all(type(params["ema.period"]) is int for params in draws)
    assert {params["ema.period"] for params in draws} == set(range(1, 10))
    assert all(type(params["coupling.mu"]) is float for params in draws)
    assert sum(0.01 < params["coupling.mu"] < 0.99 for params in draws) > 150


def test_a_real_field_inside_an_option_is_continuous_too(make_study):
    space = {"coupling": {"values": ["independent", {"name": "generator", "mu": {"min": 0, "max": 1}}]}}
    values = [params["coupling.mu"] for params in flat_draws(make_study(space=space)) if "coupling.mu" in params]
    assert len(set(values)) == len(values) > 50


def test_the_variations_reach_every_end_and_every_option(make_study):
    study = make_study(space=RICH)
    seen = {}
    for values in study.space.variations(study.base):
        recorder = Recorder(FixedChooser(values))
        study.space.draw(recorder, study.base)
        for name, (value, node) in recorder.drawn.items():
            seen.setdefault(name, (node, set()))[1].add(value)
    assert {parameter_key(name) for name in seen} >= {"timesteps.s1", "network.dropout", "ema.max_decay"}
    for name, (node, values) in seen.items():
        ends = set(node.extremes()) if isinstance(node, Range) else {option.label for option in node.options}
        assert values >= ends, name


def test_parameters_give_back_the_same_experiment_and_the_same_choices(make_study):
    study = make_study(space=RICH)
    for number in range(100):
        drawn = Recorder(RandomChooser(1, number))
        params, document = study.space.draw(drawn, study.base)
        again = Recorder(FixedChooser(params))
        repeated, _ = study.space.draw(again, study.base)
        assert repeated == params
        assert again.drawn == drawn.drawn
        assert study.experiment_of(params) == Experiment.from_document(document)


def test_null_and_list_options_survive_the_way_through_parameters(make_study):
    space = {
        "coupling.mu_end": {"values": [0.5, None]},
        "optimizer.betas": {"values": [[0.9, 0.99], [0.5, 0.9]]},
    }
    study = make_study(space=space)
    draws = flat_draws(study, 40)
    assert {params["coupling.mu_end"] for params in draws} == {0.5, None}
    for params in draws:
        experiment = study.experiment_of(params)
        assert experiment.coupling.mu_end == params["coupling.mu_end"]
        assert str(list(experiment.optimizer.betas)) == params["optimizer.betas"]


@pytest.mark.parametrize("condition", [{"timesteps": "fixed"}, {"timesteps.name": ["fixed"]}, {"training.seedless": 1}])
def test_a_condition_sees_defaults_that_nobody_wrote(make_study, condition):
    experiment = "name: bare\ndata: digits\nnetwork: {name: mlp, width: 16}\n"
    sections = {
        "experiment": experiment,
        "space": {"coupling.mu": {"min": 0.0, "max": 1.0, "when": condition}, "network.width": {"values": [8, 16]}},
    }
    text = f"experiment: tiny\nspace: {sections['space']}\n".replace("'", '"')
    if "training.seedless" in condition:
        with pytest.raises(ConfigError, match=r"when: training.seedless must be a key and value"):
            make_study(text, experiment=experiment)
    else:
        assert all("coupling.mu" in params for params in flat_draws(make_study(text, experiment=experiment), 5))


def test_a_condition_on_a_value_holds_for_that_value_only(make_study):
    space = {
        "timesteps.num_levels": {"values": [10, 20, 40]},
        "coupling.mu": {"min": 0.0, "max": 1.0, "when": {"timesteps.num_levels": [10, 40]}},
    }
    for params in flat_draws(make_study(space=space), 60):
        assert ("coupling.mu" in params) == (params["timesteps.num_levels"] != 20)


def test_a_condition_may_build_on_a_conditional_key(make_study):
    space = {
        "timesteps": RICH["timesteps"],
        "network.width": {"values": [8, 16], "when": {"timesteps.name": "exponential"}},
        "network.dropout": {"min": 0.0, "max": 0.5, "when": {"network.width": 8}},
    }
    draws = flat_draws(make_study(space=space))
    assert any("network.dropout" in params for params in draws)
    for params in draws:
        assert ("network.dropout" in params) == (params.get("network.width") == 8)


def test_an_illegal_end_is_found_even_where_a_condition_hides_it_from_the_first_options(study_file):
    space = {
        "timesteps": RICH["timesteps"],
        "network.dropout": {"min": 0.0, "max": 1.5, "when": {"timesteps": "exponential"}},
    }
    with pytest.raises(ConfigError, match="dropout"):
        load_study(study_file(space=space))


def test_start_from_may_name_options_lists_and_nested_parameters(make_study):
    start = [
        {"timesteps": "exponential", "timesteps.s1": 80, "coupling.mu": 1},
        {"optimizer": "lion(betas=[0.8, 0.99])", "optimizer.lr": 1e-3},
    ]
    study = make_study(space=RICH, search={"start_from": start})
    assert study.search.start_from == tuple(start)


def test_asha_in_a_study_file_is_read_with_its_fields(make_study):
    study = make_study(stopping={"name": "asha", "min_images": 800, "factor": 2})
    assert study.stopping == ASHA(min_images=800, factor=2, within="auto")


def test_choosing_without_the_experiment_decides_the_same():
    space = {
        "coupling.name": {"values": ["independent", "generator_augmented"]},
        "coupling.mu": {"min": 0.0, "max": 1.0, "when": {"coupling.name": "generator_augmented"}},
        "coupling.predictor": {"values": ["online", "ema"], "when": {"coupling.name": "generator_augmented"}},
        "optimizer.lr": {"min": 1e-5, "max": 1e-2, "scale": "log", "when": {"coupling.predictor": "ema"}},
    }
    parsed = parse_space(space, Document({"space": space}), is_free=True)
    base = Document({"coupling": {}, "optimizer": {}})
    seen = set()
    for number in range(40):
        params = parsed.choose(RandomChooser(0, number), base)
        assert params == parsed.draw(RandomChooser(0, number), base)[0]
        seen.add(frozenset(params))
    assert len(seen) == 3
