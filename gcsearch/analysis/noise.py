"""The noise of an ablation's reference in words and tables, and what earlier ablations know of a recipe's."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Final

from gcsearch.ablations import Plan, outcomes, scores
from gcsearch.analysis.results import StudyResults, all_results
from gcsearch.noise import KnownNoise, Noise, read_noise
from gcsearch.statistics import Estimate, spread

MOST_CORRELATION: Final = 0.99
"""A higher one, of a few seeds, would promise gaps that nobody can tell."""


def known_noise(studies: Path, recipe: str, key: str) -> KnownNoise | None:
    """Noise of a recipe's scores, by the ablations in a folder that trained it as their reference.

    A measurement on several sets of latents comes first, then the spread over the most seeds.

    Args:
        studies: The folder.
        recipe: Fingerprint of the recipe without its seed.
        key: The score, e.g. ``eval/fid``.
    """
    found: list[tuple[bool, int, KnownNoise]] = []
    for results in all_results(studies):
        one = _noise_of(results, recipe, key)
        if one is not None:
            found.append((one.is_measured, one.num_seeds, one))
    return max(found, key=lambda entry: entry[:2])[2] if found else None


def _noise_of(results: StudyResults, recipe: str, key: str) -> KnownNoise | None:
    state = results.state
    if state.ablation is None:
        return None
    plan = Plan.from_dict(state.ablation)
    reference = plan.arms[0]
    if plan.key != key or not any(
        record.arm == reference and record.recipe == recipe for record in state.of_state("completed")
    ):
        return None
    values = list(scores(plan, state)[reference].values())
    mean = statistics.fmean(values)
    noise = read_noise(state)
    deviation = noise.deviation if noise is not None else None
    if deviation is None:
        if len(values) < 2 or not 0 < mean < float("inf"):
            return None
        deviation = spread(values).root(mean)
    correlations = [
        one.judgement.comparison.correlation
        for one in outcomes(plan, state)
        if one.judgement and one.judgement.comparison.correlation is not None and not one.contrast.is_interaction
    ]
    correlation = min(MOST_CORRELATION, statistics.median(correlations)) if correlations else None
    return KnownNoise(
        study=results.name,
        num_seeds=len(values),
        is_measured=noise is not None,
        deviation=deviation,
        correlation=correlation,
    )


def noise_sentences(noise: Noise) -> list[str]:
    """What the noise ledger says, and what to do about it."""
    found, score = noise.components, noise.key.removeprefix("eval/")
    unit = found.mean if found.mean > 0 else 1.0
    sign, scale = (" %", 100.0) if found.mean > 0 else ("", 1.0)

    def text(variance: Estimate) -> str:
        one = variance.root(unit)
        return f"{scale * one.value:.2g}{sign} [{scale * one.low:.2g}, {scale * one.high:.2g}]"

    share = found.training_share
    advice = (
        "more seeds help, more samples hardly"
        if share.low > 0.5
        else "more samples help as much as more seeds, or more"
        if share.high < 0.5
        else "the panel is too small to say whether seeds or samples are short"
    )
    panel = f"{found.num_trainings} trainings, {found.num_draws} sets of {noise.num_samples:,} latents"
    part = f"{100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"
    texts = [
        f"Noise of '{noise.arm}' ({panel}; standard deviations, 95 % intervals): another training seed moves {score} "
        f"by {text(found.training)}; other latents move all trainings alike by {text(found.sampling)}, which cancels "
        f"between arms, and each on its own by {text(found.both)}.",
        f"Of the noise in differences, {part} is from the training seed: {advice}.",
    ]
    bias = noise.bias
    if bias is not None and bias.low is not None and bias.high is not None:
        part = f" ({100 * bias.mean / found.mean:.1f} %)" if found.mean > 0 else ""
        ends = f"{bias.mean:.2g}{part} [{bias.low:.2g}, {bias.high:.2g}]"
        known = ", much alike in all arms." if bias.low > 0 or bias.high < 0 else ", so hardly."
        texts.append(
            f"{noise.num_samples:,} samples put {score} above what infinitely many would give by {ends}{known}"
        )
    return texts
