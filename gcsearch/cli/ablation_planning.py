"""What `plan` says of an ablation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from gcsearch.analysis.noise import known_noise
from gcsearch.analysis.wording import duration_text
from gcsearch.cli.console import print_json, results, say
from gcsearch.cli.planning import cost_text, teachers_text
from gcsearch.cli.studies import fetched

if TYPE_CHECKING:  # it imports PyTorch, which takes seconds
    from gcsearch.tuning.ablation_plan import AblationPlan


def plan_ablation_command(
    path: Path,
    experiment: str | None,
    assignments: Sequence[str],
    imports: Sequence[str],
    studies: str,
    *,
    as_json: bool,
) -> None:
    """Say what an ablation will do and cost, and what it can tell."""
    from gcsearch.tuning.ablation import load_ablation
    from gcsearch.tuning.ablation_plan import plan_ablation

    ablation = load_ablation(path, experiment=experiment, assignments=assignments, imports=imports)
    reference = ablation.experiment_of(ablation.arms[0], ablation.seeds[0])
    noise = known_noise(fetched(studies), reference.recipe_fingerprint, ablation.objective.key)
    plan = plan_ablation(ablation, noise)
    if as_json:
        print_json({"ablation": ablation.name, **plan.to_dict(), "settings": ablation.to_dict()})
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column(f"arm ({plan.device})")
    table.add_column("full training", justify="right", no_wrap=True)
    for arm, seconds in plan.arm_seconds.items():
        table.add_row(arm, "?" if seconds is None else duration_text(seconds))
    results.print(table)
    cost = cost_text(plan.cost, plan.unit)
    if plan.num_first < plan.num_trainings:
        say(
            f"A path of at most {len(ablation.factors)} steps: {plan.num_first} trainings in the first, "
            f"{plan.num_trainings} if every change is taken{cost}."
        )
    else:
        say(f"{len(ablation.arms)} arms on {len(ablation.seeds)} seeds: {plan.num_trainings} trainings{cost}.")
    for text in teachers_text(plan.teachers):
        say(text)
    say(_power(plan, len(ablation.seeds), ablation.objective.metric))
    say("Nothing was started.")


def _power(plan: AblationPlan, num_seeds: int, metric: str) -> str:
    """Which gap the seeds can tell, and where the noise behind it is from."""
    low, high = (f"{100 * gap:.1f}" for gap in plan.gap)
    text = (
        f"{num_seeds} paired seeds tell a contrast apart (four times in five, corrected for {plan.num_judged}) if "
        f"{metric} differs by "
    )
    noise, pairs = plan.noise, f"a correlation of {plan.correlation:.2g} between the arms of a seed"
    if noise is None:
        return (
            f"{text}{low} to {high} %: trainings that differ in their seed alone differ by 1 to 2 % (FID), with "
            f"{pairs}, which the ablation will measure."
        )
    measured = "also measured there" if noise.correlation is not None else "which is assumed"
    spread = noise.deviation
    return (
        f"{text}{low} %, or {high} % if the noise is at its upper limit: by the ablation '{noise.study}', trainings of "
        f"this reference that differ in their seed alone differ by {100 * spread.value:.1f} % [{100 * spread.low:.1f}, "
        f"{100 * spread.high:.1f}], with {pairs}, {measured}."
    )
