"""Designs of an ablation: from a baseline and factors to arms to train and contrasts to judge."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from gcsearch.ablations import Contrast
from gcsearch.tuning.space import label_of

Design = Literal["one_factor", "leave_one_out", "grid", "pairs", "path"]

BASELINE: Final = "baseline"

Factors = Mapping[str, Sequence[Any]]
"""Dotted key of the experiment to the values that it takes besides the baseline's own."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One recipe of an ablation, trained on every seed.

    Attributes:
        name: ``baseline``, or what it changes, e.g. ``coupling=ot``.
        values: Dotted key to value: what it changes.
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def params(self) -> dict[str, Any]:
        """What it changes, as tables and MLflow show it."""
        return {key: value_text(value) for key, value in self.values.items()}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Arms, the reference first, and contrasts."""

    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...]


def lay_out(design: Design, factors: Factors) -> Layout:
    """Arms and contrasts of a design.

    - ``one_factor``: every value of every factor alone, against the baseline.
    - ``leave_one_out``: all factors at their one value, against the same without each in turn.
    - ``grid``: every combination of values, the baseline's own included, against the baseline.
    - ``pairs``: factors of one value each; each alone and every two together, against the baseline, and the interaction
      (both - first) - (second - baseline) of every two.
    - ``path``: factors of one value each; here the first step, each alone against the baseline: see `path_step`.

    Raises:
        ValueError: The design needs one value of each factor, or two factors.
    """
    makers: dict[str, Callable[[Factors], Layout]] = {
        "one_factor": _one_factor,
        "leave_one_out": _leave_one_out,
        "grid": _grid,
        "pairs": _pairs,
        "path": lambda factors: path_step(0, {}, _single(factors, "path")),
    }
    return makers[design](factors)


def _arm(values: Mapping[str, Any]) -> Arm:
    name = ", ".join(f"{key}={value_text(value)}" for key, value in values.items())
    return Arm(name=name or BASELINE, values=dict(values))


def _against(reference: Arm, arms: Sequence[Arm]) -> Layout:
    contrasts = (_contrast(arm, reference) for arm in arms)
    return Layout(arms=(reference, *arms), contrasts=tuple(contrasts))


def _contrast(arm: Arm, reference: Arm) -> Contrast:
    return Contrast(name=arm.name, plus=(arm.name,), minus=(reference.name,), reference=reference.name)


def _one_factor(factors: Factors) -> Layout:
    return _against(Arm(name=BASELINE), [_arm({key: value}) for key, values in factors.items() for value in values])


def _leave_one_out(factors: Factors) -> Layout:
    everything = _single(factors, "leave_one_out")
    arms = []
    for key in everything:
        rest = {other: value for other, value in everything.items() if other != key}
        arms.append(Arm(name=f"without {key}={value_text(everything[key])}", values=rest))
    return _against(Arm(name="all", values=everything), arms)


def _grid(factors: Factors) -> Layout:
    unset = object()
    arms = []
    for values in itertools.product(*([unset, *values] for values in factors.values())):
        chosen = {key: value for key, value in zip(factors, values, strict=True) if value is not unset}
        arms.append(_arm(chosen))
    return _against(arms[0], arms[1:])


def _pairs(factors: Factors) -> Layout:
    single = _single(factors, "pairs")
    if len(single) < 2:
        raise ValueError("design pairs needs at least two factors")
    baseline = Arm(name=BASELINE)
    alone = {key: _arm({key: value}) for key, value in single.items()}
    both = {
        (first, second): _arm({first: single[first], second: single[second]})
        for first, second in itertools.combinations(single, 2)
    }
    layout = _against(baseline, [*alone.values(), *both.values()])
    return Layout(arms=layout.arms, contrasts=(*layout.contrasts, *_interactions(baseline, alone, both)))


def _interactions(baseline: Arm, alone: Mapping[str, Arm], both: Mapping[tuple[str, str], Arm]) -> Iterator[Contrast]:
    for (first, second), arm in both.items():
        yield Contrast(
            name=f"{alone[first].name} x {alone[second].name}",
            plus=(arm.name, baseline.name),
            minus=(alone[first].name, alone[second].name),
            reference=baseline.name,
        )


def path_step(number: int, taken: Mapping[str, Any], left: Mapping[str, Any]) -> Layout:
    """Arms and contrasts of one step of a path: each change that is left, alone, on top of those that were taken.

    Args:
        number: Of the step, from 0.
        taken: Dotted key to value: what earlier steps took, in their order.
        left: What may be taken now.
    """
    reference = _arm(taken)
    arms = {_arm({key: value}).name: _arm({**taken, key: value}) for key, value in left.items()}
    contrasts = (
        replace(_contrast(arm, reference), name=f"step {number + 1}: {change}", step=number)
        for change, arm in arms.items()
    )
    return Layout(arms=(reference, *arms.values()), contrasts=tuple(contrasts))


def _single(factors: Factors, design: str) -> dict[str, Any]:
    for key, values in factors.items():
        if len(values) != 1:
            raise ValueError(f"design {design} needs one value of each factor, got {len(values)} of {key}")
    return {key: values[0] for key, values in factors.items()}


def value_text(value: Any) -> str:
    """A value as a name: ``generator(mu=0.3)`` for a component with fields."""
    if not isinstance(value, Mapping):
        return str(label_of(value))
    fields = ", ".join(f"{key}={value_text(inner)}" for key, inner in value.items() if key != "name")
    name = str(value.get("name", ""))
    return f"{name}({fields})" if fields else name
