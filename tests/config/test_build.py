"""`build` and `spec`: the way in and the way out, for every registered component and every way to get it wrong."""

import dataclasses
import json
import pickle
import typing

import pytest

import gcsearch.config
import gcsearch.tuning.spec
from gcsearch.config import Document, build, build_settings
from gcsearch.config.sections import Evaluation, Training
from gcsearch.errors import ConfigError
from gcsearch.registry import registries, spec
from gcsearch.science.couplings import Generator
from gcsearch.science.distances import PseudoHuber
from gcsearch.science.networks.mlp import MLP
from gcsearch.science.networks.unet import UNet
from gcsearch.science.optimizers import Lion
from gcsearch.science.samplers import Multistep, OneStep
from gcsearch.tuning.settings import Resources

assert gcsearch.config
assert gcsearch.tuning.spec

EVERY = [pytest.param(kind, name, id=f"{kind}-{name}") for kind, table in sorted(registries.items()) for name in table]


def legal_neighbours(cls):
    """Components that differ from the default one in a single field, found by trying."""
    hints = typing.get_type_hints(cls)
    default = cls()
    for field in dataclasses.fields(cls):
        value, hint = getattr(default, field.name), hints[field.name]
        options = list(typing.get_args(hint)) if typing.get_origin(hint) is typing.Literal else []
        if isinstance(value, bool):
            options = [not value]
        elif isinstance(value, int | float):
            options = [value * 2, value / 2 if isinstance(value, float) else value + 2, value + 1]
        elif value is None:
            options = [1.0, 1]
        elif isinstance(value, tuple) and value and isinstance(value[0], int | float):
            options = [tuple(item / 2 for item in value), (*value, *value), value[:1]]
        for option in options:
            try:
                built = build(cls.kind, {"name": cls.name, field.name: option})
            except ConfigError:
                continue
            if built != default:
                yield field.name, built
                break


@pytest.mark.parametrize(("kind", "name"), EVERY)
class TestEveryComponent:
    def test_goes_out_and_comes_back_equal(self, kind, name):
        component = registries[kind][name]()
        assert build(kind, spec(component)) == component
        assert build(kind, name) == component
        assert build(kind, json.loads(json.dumps(spec(component)))) == component

    def test_goes_out_and_comes_back_equal_with_any_field_changed(self, kind, name):
        cls = registries[kind][name]
        for field, component in legal_neighbours(cls):
            again = build(kind, spec(component))
            assert again == component
            assert type(getattr(again, field)) is type(getattr(component, field))
            assert spec(again) == spec(component)
            assert pickle.loads(pickle.dumps(component)) == component

    def test_refuses_an_unknown_field_and_names_itself(self, kind, name):
        with pytest.raises(ConfigError, match=f"{kind} '{name}' has no key 'frobnicate'"):
            build(kind, {"name": name, "frobnicate": 1})

    def test_refuses_values_of_a_wrong_type_in_every_field(self, kind, name):
        cls = registries[kind][name]
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            wrong = 3.5 if hints[field.name] is str else {"a": 1}
            with pytest.raises(ConfigError, match=rf"{field.name}.* (must (be .*, got|have a name)|has no key)"):
                build(kind, {"name": name, field.name: wrong})

    def test_refuses_strings_and_truth_values_for_numbers(self, kind, name):
        cls = registries[kind][name]
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if hints[field.name] in (int, float):
                for wrong in ("1", "0.5", True, False, None):
                    with pytest.raises(ConfigError, match=f"{field.name} must be an? (integer|number), got "):
                        build(kind, {"name": name, field.name: wrong})

    def test_refuses_numbers_that_are_not_finite(self, kind, name):
        cls = registries[kind][name]
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if hints[field.name] in (int, float):
                for wrong in (float("inf"), -float("inf"), float("nan")):
                    with pytest.raises(ConfigError, match=rf"{field.name} must be .*, got -?(inf|nan)"):
                        build(kind, {"name": name, field.name: wrong})


def test_the_neighbours_reach_most_fields():
    reached = {
        (kind, name, field)
        for kind, name in [p.values for p in EVERY]
        for field, _ in legal_neighbours(registries[kind][name])
    }
    assert len(reached) > 40
    assert ("coupling", "generator", "mu") in reached
    assert ("sampler", "multistep", "levels") in reached
    assert ("optimizer", "lion", "betas") in reached


@pytest.mark.parametrize("value", [1, 1.0])
def test_a_float_field_takes_a_whole_number_and_holds_a_float(value):
    component = build("distance", {"name": "pseudo_huber", "c": value})
    assert component == PseudoHuber(c=1.0)
    assert type(component.c) is float
    mu_end = build("coupling", {"name": "generator", "mu_end": value}).mu_end
    assert (mu_end, type(mu_end)) == (1.0, float)
    (level,) = build("sampler", {"name": "multistep", "levels": [value]}).levels
    assert type(level) is float


@pytest.mark.parametrize("value", [64, 64.0])
def test_an_integer_field_takes_a_whole_float_and_holds_an_integer(value):
    component = build("network", {"name": "mlp", "width": value})
    assert component == MLP(width=64)
    assert type(component.width) is int


@pytest.mark.parametrize("value", [64.5, 1e300, "64", True, None, [64], {}])
def test_an_integer_field_takes_nothing_else(value):
    with pytest.raises(ConfigError, match="width must be an integer, got "):
        build("network", {"name": "mlp", "width": value})


def test_lists_become_tuples():
    assert build("network", {"name": "unet", "channel_mult": [1, 2, 2]}) == UNet(channel_mult=(1, 2, 2))
    assert build("optimizer", {"name": "lion", "betas": [0.5, 0.75]}) == Lion(betas=(0.5, 0.75))


def test_null_is_allowed_where_the_field_says_so_only():
    assert build("coupling", {"name": "generator", "mu_end": None}) == Generator()
    with pytest.raises(ConfigError, match="mu must be a number, got None"):
        build("coupling", {"name": "generator", "mu": None})


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("couplin", "generator", "unknown kind of component 'couplin'. Did you mean 'coupling'?"),
        (
            "coupling",
            "genertor",
            "coupling: coupling: unknown coupling 'genertor'. Did you mean 'generator'? Known: generator, ",
        ),
        ("coupling", {"name": "generator", "mix": 1}, "coupling: coupling 'generator' has no key 'mix'."),
        ("coupling", {"name": "generator", "m": 1}, "Did you mean 'mu'?"),
        ("coupling", {"mu": 1}, "coupling: coupling must have a name. Known: generator, "),
        ("coupling", {"name": 3}, "coupling: coupling.name must be a word, got 3."),
        ("coupling", {"name": None}, "coupling: coupling.name must be a word, got None."),
        ("coupling", {"name": ["generator"]}, "coupling: coupling.name must be a word, got ['generator']."),
        ("coupling", None, "coupling must be a coupling's name or a mapping with a name, got None."),
        ("coupling", 3, "coupling must be a coupling's name or a mapping with a name, got 3."),
        ("coupling", ["generator"], "must be a coupling's name or a mapping with a name, got ['generator']."),
        ("coupling", "a\nb", r"unknown coupling 'a\nb'."),
        ("coupling", {"name": "generator", "mu": 1.5}, "coupling: mu must be in [0, 1], got 1.5."),
        (
            "coupling",
            {"name": "generator", "predictor": "emma"},
            "predictor must be one of 'ema', 'online', ",
        ),
        ("coupling", {"name": "generator", "mu_end": "x"}, "mu_end must be a number or null, got 'x'."),
        ("optimizer", {"name": "lion", "betas": [0.9]}, "betas must be a list of 2 numbers, got [0.9]."),
        (
            "optimizer",
            {"name": "lion", "betas": [0.9, 0.9, 0.9]},
            "betas must be a list of 2 numbers, got [0.9, 0.9, 0.9].",
        ),
        ("optimizer", {"name": "lion", "betas": 0.9}, "betas must be a list, got 0.9."),
        (
            "optimizer",
            {"name": "lion", "betas": [0.9, "x"]},
            "betas must be a list of 2 numbers (input should be a valid number), got [0.9, 'x'].",
        ),
        ("network", {"name": "unet", "channel_mult": [1, 1.5]}, "channel_mult must be a list of numbers"),
        ("network", {"name": "unet", "channel_mult": "12"}, "channel_mult must be a list, got '12'."),
        ("optimizer", {"name": "lion", "betas": [0.9, float("inf")]}, "betas must be finite, got [0.9, inf]."),
        ("sampler", {"name": "multistep", "levels": [float("nan")]}, "levels must be finite, got [nan]."),
        ("sampler", {"name": "multistep", "clip": "yes"}, "clip must be true or false, got 'yes'."),
        ("sampler", {"name": "multistep", "clip": 1}, "clip must be true or false, got 1."),
    ],
)
def test_what_is_wrong_is_said_in_one_line(kind, given, message):
    with pytest.raises(ConfigError) as error:
        build(kind, given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(ConfigError) as error:
        build("network", {"name": "mlp", "width": list(range(1000))})
    assert len(str(error.value)) < 200


def test_settings_without_a_name_take_their_fields_and_defaults():
    document = Document({}, "here")
    assert build_settings(Training, {}, document) == Training()
    assert build_settings(Training, {"batch_size": 2e2}, document, ("training",)) == Training(batch_size=200)


@pytest.mark.parametrize("given", [None, 3, "fast", [1]])
def test_settings_must_be_a_mapping(given):
    with pytest.raises(ConfigError, match=r"^here: training must be a mapping, got "):
        build_settings(Training, given, Document({}, "here"), ("training",))


def test_a_component_inside_settings_takes_the_default_one_if_it_has_no_name():
    document = Document({}, "here")
    assert build_settings(Evaluation, {"sampler": {}}, document).sampler == OneStep()
    given = {"sampler": {"name": "multistep", "levels": [3, 1]}}
    assert build_settings(Evaluation, given, document).sampler == Multistep(levels=(3.0, 1.0))


def test_a_list_of_components_may_be_a_single_one():
    assert build_settings(Evaluation, {"metrics": "kid"}, Document({})).metrics == (build("metric", "kid"),)
    names = [metric.name for metric in build_settings(Evaluation, {"metrics": ["kid", "fid"]}, Document({})).metrics]
    assert names == ["kid", "fid"]


@pytest.mark.parametrize(("given", "held"), [("auto", "auto"), (3, 3), (3.0, 3)])
def test_a_field_of_two_types_takes_both(given, held):
    resources = build_settings(Resources, {"concurrent": given}, Document({}))
    assert resources.concurrent == held
    assert type(resources.concurrent) is type(held)


@pytest.mark.parametrize("given", ["3", "many", True, 1.5, None])
def test_a_field_of_two_types_takes_nothing_else(given):
    with pytest.raises(ConfigError, match="concurrent must be an integer or "):
        build_settings(Resources, {"concurrent": given}, Document({}))


def test_a_missing_required_key_is_named():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings:
        needed: int

    with pytest.raises(ConfigError, match=r"^here: here must have the key 'needed', which is missing\.$"):
        build_settings(Settings, {}, Document({}, "here"))
