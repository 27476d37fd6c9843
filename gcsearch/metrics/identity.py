"""What a score's value depends on besides the model, and the refusal to compare scores that differ in it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gcsearch.errors import ScoreError
from gcsearch.registry import Component, spec

SEPARATOR: Final = " | "


@dataclass(frozen=True, kw_only=True)
class ScoreIdentity:
    """Everything a score's value depends on besides the model; scores are compared only if all of it is equal.

    Attributes:
        metric: Key and settings of the metric, e.g. ``fid``.
        extractor: Name and weights of the extractor, e.g. ``digits@1a2b3c4d``.
        reference: Name, content and number of the real examples, e.g. ``digits@0a1b2c3d4e5f x1797``.
        num_samples: Number of generated examples.
        sampler: Name and settings of the sampler, e.g. ``one_step``.
        quantisation: ``clip_round_uint8`` for images, ``none`` for points.
    """

    metric: str
    extractor: str
    reference: str
    num_samples: int
    sampler: str
    quantisation: str

    def __str__(self) -> str:
        """Canonical form, ``metric=fid | extractor=... | ...``; `parse` reads it back."""
        return SEPARATOR.join(f"{field.name}={getattr(self, field.name)}" for field in dataclasses.fields(self))

    @property
    def data(self) -> tuple[str, str, int]:
        """Of the real examples: name, start of the sha256 of their bytes, number."""
        name, _, content = self.reference.rpartition("@")
        digest, _, count = content.partition(" x")
        return name, digest, int(count)

    @classmethod
    def parse(cls, text: str) -> ScoreIdentity:
        """Identity from its canonical form.

        Raises:
            ScoreError: The text is no such form.
        """
        values = dict(part.partition("=")[::2] for part in text.split(SEPARATOR))
        try:
            return cls(**{**values, "num_samples": int(values["num_samples"])})  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise ScoreError(f"score identity: must be '{SEPARATOR.join(_FIELDS)}', got '{text}'.") from error


_FIELDS: Final = [f"{field.name}=..." for field in dataclasses.fields(ScoreIdentity)]


def check_comparable(identities: Iterable[ScoreIdentity | str]) -> None:
    """Nothing, if all scores were measured in the same way.

    Args:
        identities: Identities, or their canonical forms as they stand beside recorded scores.

    Raises:
        ScoreError: They differ; the message names what differs and how.
    """
    parsed = [ScoreIdentity.parse(item) if isinstance(item, str) else item for item in identities]
    differences = []
    for field in dataclasses.fields(ScoreIdentity):
        values = sorted({str(getattr(identity, field.name)) for identity in parsed})
        if len(values) > 1:
            differences.append(f"{field.name} ({' against '.join(values)})")
    if differences:
        raise ScoreError(
            f"scores: all must be measured in the same way, but they differ in {'; '.join(differences)}. "
            "Evaluate again with equal settings, or compare each group on its own."
        )


def describe(component: Component) -> str:
    """Name and settings of a component on one line, e.g. ``multistep(levels=[0.821], clip=true)``."""
    values = spec(component)
    name = values.pop("name")
    settings = ", ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
    return f"{name}({settings})" if settings else str(name)
