import pytest

from gcsearch.tracking.names import color, config_params, legal_key, number, run_name, short_names, varied_params


def test_short_names_are_last_parts_unless_two_are_equal() -> None:
    keys = ["coupling.mu", "process.name", "optimizer", "optimizer.lr", "ema.decay", "network.decay"]
    assert short_names(keys) == {
        "coupling.mu": "mu",
        "process.name": "process",
        "optimizer": "optimizer",
        "optimizer.lr": "lr",
        "ema.decay": "ema.decay",
        "network.decay": "network.decay",
    }


def test_absent_conditional_params_are_left_out() -> None:
    assert varied_params({"timesteps": "fixed"}, ["timesteps", "network.dropout"]) == {"timesteps": "fixed"}


def test_configuration_is_flat_and_json() -> None:
    params = config_params({"a": {"b": {"c": True}, "list": [1, {"x": 2}]}, "none": None, "empty": {}})
    assert params == {
        "z_config/a.b.c": "true",
        "z_config/a.list": '[1, {"x": 2}]',
        "z_config/none": "null",
        "z_config/empty": "{}",
    }


@pytest.mark.parametrize("key", ["a@b", "../x", "/abs", "a//b", ".", "", "x" * 300, "ünï cödé", "a=b,c"])
def test_legal_keys_are_accepted_by_mlflow(key: str) -> None:
    from mlflow.utils.validation import _validate_param

    _validate_param(legal_key(key), "1")


def test_run_names_are_short() -> None:
    params = {f"part.parameter_{i}": i / 7 for i in range(9)}
    name = run_name("0123", "finalist", params, 4)
    assert name.startswith("0123 finalist seed=4 parameter_0=0 ")
    assert name.endswith(" …")
    assert len(name) <= 60


def test_first_colors_differ() -> None:
    assert len({color(f"{number:04d}") for number in range(24)}) == 24
    assert color("0024") == color("0000")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.12"),
        (1.9e-4, "1.9e-4"),
        (0.02, "0.02"),
        (0.89, "0.89"),
        (0.95, "0.95"),
        (0.999, "0.999"),
        (0.9999, "0.9999"),
        (-0.99, "-0.99"),
        (1.0, "1"),
        (12.345, "12"),
        (3e5, "3e+5"),
        (True, "true"),
        ("lion", "lion"),
    ],
)
def test_numbers_are_short_and_a_decay_is_not_rounded_to_one(value, text):
    assert number(value, digits=2) == text
