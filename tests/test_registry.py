"""Tables of components: names in, classes out, and plain data that describes a component."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import pytest

from gcsearch.errors import ConfigError, FieldError, suggestion
from gcsearch.registry import Component, Registry, kind_of, plain, registries, spec
from gcsearch.science.couplings import Coupling, Generator
from gcsearch.science.samplers import Multistep


class Fruit(Component, ABC):
    @abstractmethod
    def eat(self) -> None: ...


@pytest.fixture
def fruits():
    registry: Registry[Fruit] = Registry("fruit")
    yield registry
    del registries["fruit"]


def test_registering_stores_kind_and_name_on_the_class(fruits):
    @fruits.register("apple")
    @dataclass(frozen=True, kw_only=True)
    class Apple(Fruit):
        def eat(self) -> None: ...

    assert (Apple.kind, Apple.name) == ("fruit", "apple")
    assert fruits["apple"] is Apple
    assert (list(fruits), len(fruits)) == (["apple"], 1)
    assert kind_of(Fruit) == kind_of(Apple) == "fruit"


def test_a_name_cannot_be_registered_twice(fruits):
    first = fruits.register("apple")(type("First", (Fruit,), {}))
    with pytest.raises(ValueError, match="fruit 'apple' is registered twice"):
        fruits.register("apple")(type("Second", (Fruit,), {}))
    assert fruits["apple"] is first


def test_names_are_listed_in_alphabetical_order_whatever_the_order_of_registration(fruits):
    for name in ("pear", "apple", "fig"):
        fruits.register(name)(type(name, (Fruit,), {}))
    assert list(fruits) == ["apple", "fig", "pear"]


def test_an_unknown_name_gives_the_nearest_one_and_all_known_ones(fruits):
    for name in ("pear", "apple"):
        fruits.register(name)(type(name, (Fruit,), {}))
    with pytest.raises(ConfigError) as error:
        fruits["appel"]
    assert str(error.value) == "unknown fruit 'appel'. Did you mean 'apple'? Known: apple, pear."


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("genertor", ["independent", "generator"], "Did you mean 'generator'? Known: generator, independent."),
        ("zzz", ["b", "a"], "Known: a, b."),
        ("", [], "Known: none."),
    ],
)
def test_a_suggestion_names_a_near_word_only_if_there_is_one(word, known, expected):
    assert suggestion(word, known) == expected


@pytest.mark.parametrize("word", [int, str, list, dict[str, int], Registry, "coupling", None, int | None])
def test_only_components_have_a_kind(word):
    assert kind_of(word) is None


def test_kind_of_an_abstract_class_is_that_of_its_components():
    assert kind_of(Coupling) == kind_of(Generator) == "coupling"


def test_spec_is_plain_data_with_the_name_first():
    assert spec(Multistep(levels=(2.0, 1.0))) == {"name": "multistep", "levels": [2.0, 1.0], "clip": True}
    assert next(iter(spec(Generator()))) == "name"


def test_spec_of_settings_has_no_name_and_describes_nested_components():
    @dataclass(frozen=True)
    class Settings:
        sampler: Multistep = field(default_factory=Multistep)
        pairs: tuple[tuple[int, float], ...] = ((1, 2.0),)
        table: dict[int, tuple[int, ...]] = field(default_factory=lambda: {1: (2,)})
        nothing: None = None

    assert spec(Settings()) == {
        "sampler": {"name": "multistep", "levels": [0.821], "clip": True},
        "pairs": [[1, 2.0]],
        "table": {"1": [2]},
        "nothing": None,
    }


@pytest.mark.parametrize("value", [1, 1.5, True, None, "words", [1, [2, 3]], {"a": [{"b": None}]}])
def test_plain_keeps_plain_data(value):
    assert plain(value) == value
    assert json.loads(json.dumps(plain(value))) == value


def test_a_field_error_names_its_field_and_is_a_value_error():
    error = FieldError("evaluation.every_images", "must be at most 3, got 4")
    assert isinstance(error, ValueError)
    assert (error.field, str(error)) == ("evaluation.every_images", "evaluation.every_images must be at most 3, got 4")
