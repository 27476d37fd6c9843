"""An ablation as tables: what was found about each contrast, and every arm's score."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gcsearch.ablations import AXES, Axis, Outcome, Plan, outcomes, scores
from gcsearch.analysis.results import StudyResults
from gcsearch.errors import StudyError
from gcsearch.files import write_text
from gcsearch.noise import Noise, read_noise
from gcsearch.statistics import Interval, t_interval

AXIS_NAMES: Final[dict[Axis, str]] = {
    "images": "equal images",
    "cost/forward_units": "equal forward units",
    "cost/train_seconds": "equal time",
}

CAPTION: Final = (
    "Change of the score against the reference, mean over paired seeds with Student's 95 % interval, in percent of the "
    "reference's mean; the verdict is corrected (Holm) for all contrasts and looks."
)


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """One arm.

    Attributes:
        name: What it changes.
        interval: Mean score over its seeds; None without one, or if a seed diverged.
        deviation: Standard deviation over its seeds; None with fewer than two, or if a seed diverged.
        num_seeds: Seeds that are through.
        num_diverged: Those that diverged.
        seconds: Mean training time; None without a completed one.
    """

    name: str
    interval: Interval | None
    deviation: float | None
    num_seeds: int
    num_diverged: int
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class AblationResults:
    """What an ablation says.

    Attributes:
        plan: What it was to train and judge.
        arms: Every arm, the reference first.
        by_axis: Outcomes of all contrasts, by what arms were given the same amount of.
        noise: What makes the reference's scores noisy; None if that was not measured.
    """

    plan: Plan
    arms: tuple[ArmRow, ...]
    by_axis: dict[Axis, list[Outcome]]
    noise: Noise | None

    @property
    def main(self) -> list[Outcome]:
        """Outcomes at equal images."""
        return self.by_axis["images"]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "plan": self.plan.to_dict(),
            "arms": [
                {
                    "arm": row.name,
                    "mean": row.interval.mean if row.interval else None,
                    "low": row.interval.low if row.interval else None,
                    "high": row.interval.high if row.interval else None,
                    "deviation": row.deviation,
                    "num_seeds": row.num_seeds,
                    "num_diverged": row.num_diverged,
                    "train_seconds": row.seconds,
                }
                for row in self.arms
            ],
            "verdicts": {
                one.contrast.name: {AXIS_NAMES[axis]: found[index].to_dict() for axis, found in self.by_axis.items()}
                for index, one in enumerate(self.main)
            },
            "noise": self.noise.to_dict() if self.noise else None,
        }


def ablation_results(results: StudyResults) -> AblationResults:
    """Read an ablation.

    Raises:
        StudyError: The study is a search.
        ScoreError: Scores have different identities and cannot be compared.
    """
    state = results.state
    if state.ablation is None:
        raise StudyError(f"study '{results.name}': is a search, not an ablation.")
    plan = Plan.from_dict(state.ablation)
    rows = []
    for arm, by_seed in scores(plan, state).items():
        values = list(by_seed.values())
        finite = [value for value in values if math.isfinite(value)]
        seconds = [
            record.results[-1].metrics["cost/train_seconds"]
            for record in state.of_state("completed")
            if record.arm == arm and record.results
        ]
        is_known = bool(values) and len(finite) == len(values)
        rows.append(
            ArmRow(
                name=arm,
                interval=t_interval(values) if is_known else None,
                deviation=statistics.stdev(values) if is_known and len(values) > 1 else None,
                num_seeds=len(values),
                num_diverged=len(values) - len(finite),
                seconds=sum(seconds) / len(seconds) if seconds else None,
            )
        )
    by_axis = {axis: outcomes(plan, state, axis) for axis in AXES}
    return AblationResults(plan=plan, arms=tuple(rows), by_axis=by_axis, noise=read_noise(state))


def change_text(outcome: Outcome) -> str:
    """Mean change with its interval, e.g. ``-3.2 % [-4.0, -2.4]``; ``-`` without a pair."""
    found = outcome.judgement
    if found is None:
        return "-"
    interval, unit = found.comparison.share, " %"
    if interval is None:  # the reference's mean is not positive, so a share of it means nothing
        interval, unit = found.comparison.gap, ""
    scale = 100 if unit else 1
    ends = ""
    if interval.low is not None and interval.high is not None:
        ends = f" [{scale * interval.low:+.1f}, {scale * interval.high:+.1f}]"
    return f"{scale * interval.mean:+.1f}{unit}{ends}"


def score_text(row: ArmRow) -> str:
    """Mean score of an arm with its interval, e.g. ``2.413 [2.301, 2.525]``; what is missing in words."""
    if row.interval is None:
        return f"diverged on {row.num_diverged}" if row.num_diverged else "-"
    mean, low, high = row.interval.mean, row.interval.low, row.interval.high
    # Three decimals, or as many as a small mean needs for three digits.
    decimals = max(3, 2 - math.floor(math.log10(abs(mean)))) if mean else 3
    return f"{mean:.{decimals}f}" + ("" if low is None else f" [{low:.{decimals}f}, {high:.{decimals}f}]")


def seeds_saved(found: Sequence[Outcome]) -> float | None:
    """Median over contrasts of the seeds that pairing has saved; None where that is not known."""
    saved = [
        one.judgement.comparison.seeds_saved
        for one in found
        if one.judgement and one.judgement.comparison.seeds_saved is not None
    ]
    return statistics.median(saved) if saved else None


def correction_text(plan: Plan) -> str:
    """What verdicts are corrected for."""
    if plan.steps:
        return "all changes of all steps that the path may have"
    looks = "1 look" if len(plan.looks) == 1 else f"{len(plan.looks)} looks"
    return f"{len(plan.contrasts)} contrast{'' if len(plan.contrasts) == 1 else 's'} and {looks}"


def path_text(found: AblationResults) -> str:
    """Which changes a path took, in their order, and why it ends where it does."""
    taken = [one for one in found.main if one.is_taken]
    names = [f"{change_name(one)} ({change_text(one)})" for one in taken]
    text = f"Path: {' -> '.join([found.plan.arms[0], *names])}."
    last = [one for one in found.main if one.contrast.step == len(found.plan.steps) - 1]
    num_seeds = len(found.plan.steps[-1].seeds)
    if any(one.judgement is None or (one.is_open and one.judgement.num < num_seeds) for one in last):
        return f"{text} Step {len(found.plan.steps)} is not trained to its end."
    left = [change_name(one) for one in last if not one.is_taken]
    if left:
        return f"{text} It ends there: of what is left ({', '.join(left)}) nothing is shown to be better."
    return f"{text} Every change was taken."


def change_name(outcome: Outcome) -> str:
    """Of a path, what a contrast changes, without its step."""
    return outcome.contrast.name.removeprefix(f"step {outcome.contrast.step + 1}: ")


def p_text(outcome: Outcome) -> str:
    """The p value of the difference, corrected for the family."""
    if outcome.judgement is None:
        return "-"
    value = outcome.judgement.p_adjusted
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def verdict_rows(found: AblationResults) -> list[list[str]]:
    """Heading and one row a contrast, as text."""
    rows = [["contrast", "verdict", *(AXIS_NAMES[axis] for axis in AXES), "p", "seeds", "correlation", "seeds saved"]]
    for index, outcome in enumerate(found.main):
        comparison = outcome.judgement.comparison if outcome.judgement else None
        correlation = comparison.correlation if comparison else None
        saved = comparison.seeds_saved if comparison else None
        rows.append(
            [
                outcome.contrast.name,
                verdict_text(outcome),
                *(change_text(found.by_axis[axis][index]) for axis in AXES),
                p_text(outcome),
                str(outcome.judgement.num if outcome.judgement else 0),
                "-" if correlation is None else f"{correlation:.2f}",
                "-" if saved is None else f"{saved:z.0f}",
            ]
        )
    return rows


def verdict_text(outcome: Outcome) -> str:
    """The verdict; of an interaction, in the words for one; of a path, with what was taken."""
    if outcome.verdict == "diverged":
        return f"diverged on {outcome.num_diverged}"
    if not outcome.contrast.is_interaction:
        return f"{outcome.verdict}, taken" if outcome.is_taken else outcome.verdict
    return {"better": "synergy", "worse": "conflict", "equivalent": "additive"}.get(outcome.verdict, outcome.verdict)


def write_verdicts(results: StudyResults) -> list[Path]:
    """Write the verdicts as Markdown and LaTeX into the study's folder."""
    rows = verdict_rows(ablation_results(results))
    files = {"verdicts.md": _markdown(rows), "verdicts.tex": _latex(rows)}
    for name, text in files.items():
        write_text(results.directory / name, text)
    return [results.directory / name for name in files]


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join([*lines, "", CAPTION, ""])


def _latex(rows: Sequence[Sequence[str]]) -> str:
    body = [" & ".join(map(_escaped, row)) + r" \\" for row in rows]
    return "\n".join(
        [
            rf"% {CAPTION}",
            rf"\begin{{tabular}}{{{'l' * 2}{'r' * (len(rows[0]) - 2)}}}",
            r"\hline",
            body[0],
            r"\hline",
            *body[1:],
            r"\hline",
            r"\end{tabular}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text.replace("<", "$<$").replace(" [-", " [$-$").replace("~", r"\textasciitilde{}")
