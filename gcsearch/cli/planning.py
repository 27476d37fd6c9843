"""The commands about studies and ablations that do not run them: plan, replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.tree import Tree

from gcsearch.analysis.results import open_results
from gcsearch.analysis.wording import duration_text, images_text
from gcsearch.cli.console import print_json, results, say
from gcsearch.cli.studies import fetched
from gcsearch.config import read_document
from gcsearch.errors import ConfigError
from gcsearch.ledger import LEDGER_NAME, read_events
from gcsearch.tracking.names import number

FEW = 6
"""Full-length trials below which a front says little."""

if TYPE_CHECKING:  # they import PyTorch and Optuna, which takes seconds
    from gcsearch.tuning.planning import Cost, Plan
    from gcsearch.tuning.recorded import Replayed
    from gcsearch.tuning.space import Node
    from gcsearch.tuning.spec import StudySpec
    from gcsearch.tuning.teacher_costs import PlannedTeacher


def plan_command(
    space: Path,
    *,
    experiment: str | None,
    trials: int | None,
    assignments: Sequence[str],
    imports: Sequence[str],
    studies: str,
    as_json: bool,
) -> None:
    """Say what a study or an ablation will do and cost."""
    if read_document(space).data.keys() & {"factors", "winner"}:
        if trials is not None:
            raise ConfigError(
                f"{space}: --trials is for studies; an ablation trains every arm on every one of its seeds."
            )
        from gcsearch.cli.ablation_planning import plan_ablation_command

        plan_ablation_command(space, experiment, assignments, imports, studies, as_json=as_json)
        return
    from gcsearch.tuning.planning import make_plan
    from gcsearch.tuning.spec import load_study

    study = load_study(space, experiment=experiment, trials=trials, assignments=assignments, imports=imports)
    plan = make_plan(study)
    if as_json:
        print_json({"study": study.name, **plan.to_dict(), "space": study.space_data, "settings": study.to_dict()})
        return
    results.print(_tree(study))
    results.print(_rungs(plan))
    if plan.steps:
        results.print(_steps(plan))
    for text in _sentences(study, plan):
        say(text)


def _tree(study: StudySpec) -> Tree:
    """The resolved space: what varies, and what a choice brings along."""
    tree = Tree(f"[bold]{study.name}[/bold], on the experiment {study.experiment.name}")
    for entry in study.space.entries:
        when = ", ".join(f"{key} is {_words(value)}" for key, value in entry.when.items())
        _grow(tree, entry.key, entry.node, f"  [dim]when {when}[/dim]" if when else "")
    return tree


def _words(value: Any) -> str:
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value)


def _grow(tree: Tree, key: str, node: Node, note: str = "") -> None:
    from gcsearch.tuning.space import Range

    if isinstance(node, Range):
        kind = "integers, " if node.is_integer else ""
        ends = f"{number(node.low, digits=4)} to {number(node.high, digits=4)}"
        tree.add(f"{key}: {kind}{ends}{', log scale' if node.is_log else ''}{note}", highlight=False)
        return
    plain = [option for option in node.options if not option.nodes]
    if len(plain) == len(node.options):
        tree.add(f"{key}: {', '.join(str(option.label) for option in plain)}{note}", highlight=False)
        return
    branch = tree.add(f"{key}{note}")
    for option in node.options:
        twig = branch.add(str(option.label))
        for inner, child in option.nodes.items():
            _grow(twig, inner, child)


def _rungs(plan: Plan) -> Table:
    """Expected trials at the rungs where something is decided."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("after images", justify="right")
    table.add_column("trials expected", justify="right")
    table.add_column("")
    table.add_row("0", f"{plan.counts.trials:.0f}", "start")
    for rung in plan.stopping_rungs:
        table.add_row(images_text(rung), f"{plan.counts.reached[rung]:.1f}", "stopping decides")
    horizon = plan.rungs[-1]
    table.add_row(images_text(horizon), f"{plan.counts.reached[horizon]:.1f}", "full length")
    return table


def _steps(plan: Plan) -> Table:
    """What recipes cost on this machine."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column(f"recipes ({plan.device})")
    for heading in ("share", "images/s", "full training"):
        table.add_column(heading, justify="right", no_wrap=True)
    for step in plan.steps:
        full = duration_text(step.train_seconds * plan.rungs[-1])
        table.add_row(step.recipe, f"{100 * step.share:.0f} %", f"{1 / step.train_seconds:,.0f}", full)
    return table


def _sentences(study: StudySpec, plan: Plan) -> list[str]:
    """Cost, power and what is not counted."""
    counts, texts = plan.counts, []
    full = counts.trials * plan.rungs[-1]
    texts.append(
        f"Search: {counts.trials:.0f} trials, {images_text(counts.images)} images "
        f"({100 * counts.images / full if full else 0:.0f} % of full-length trials){cost_text(plan.search, plan.unit)}."
    )
    if study.finalists is not None and plan.gap is not None:
        texts.append(
            f"Finalists: {plan.num_finalists} full trainings ({study.finalists.top} recipes, seeds "
            f"{', '.join(map(str, study.finalists.seeds))}){cost_text(plan.finalists, plan.unit)}."
        )
        low, high = (f"{100 * gap:.1f}" for gap in plan.gap)
        texts.append(
            f"{len(study.finalists.seeds)} seeds tell two recipes apart (four times in five, t test at 5 %) if their "
            f"FID differs by {low} to {high} %: trainings that differ in their seed alone differ by 1 to 2 %."
        )
    else:
        who = "the winner is" if len(study.objectives) == 1 else "each trial of the front is"
        texts.append(f"No finalists: {who} one training with one seed. Add `finalists: {{top: 3, seeds: [1, 2, 3]}}`.")
    if len(study.objectives) > 1 and counts.reached[plan.rungs[-1]] < FEW:
        texts.append(
            f"About {counts.reached[plan.rungs[-1]]:.1f} trials come to full length, and only these can be on the "
            "front: raise budget.trials or stopping.min_images, or use stopping: none."
        )
    texts += teachers_text(plan.teachers)
    if plan.search is None:
        texts.append("The cost is not known: trials ask for a GPU and this machine has none. Run plan on one that has.")
    else:
        texts.append(
            f"With {plan.concurrent} at a time, as on this machine. Not counted: start of processes, features of "
            "samples, compilation, messages between workers."
        )
    texts.append("Nothing was started.")
    return texts


def teachers_text(teachers: Sequence[PlannedTeacher]) -> list[str]:
    """What is trained before the first training, and how long that takes; nothing where there is no teacher."""
    if not teachers:
        return []
    needed = [teacher for teacher in teachers if teacher.seconds != 0]
    there = len(teachers) - len(needed)
    if not needed:
        return [f"Teachers: {there}, in the cache already."]
    seconds = [teacher.seconds for teacher in needed if teacher.seconds is not None]
    images = images_text(sum(teacher.images for teacher in needed))
    time = f", done in {duration_text(sum(seconds))}" if seconds else ""
    others = f"; {there} more in the cache already" if there else ""
    return [
        f"Teachers: {len(needed)} to train before all else, once for all trainings: {images} images{time}{others}. "
        "That is in none of the other numbers."
    ]


def cost_text(cost: Cost | None, unit: str) -> str:
    """Device hours and wall time, to end a sentence with; nothing where the cost is not known."""
    if cost is None:
        return ""
    return f", {cost.device_hours:.2g} {unit}-hours, done in {duration_text(3600 * cost.wall_hours)}"


def replay_command(study: str, rules: Sequence[str], studies: str, *, as_json: bool) -> None:
    """Say what other stopping rules would have cost and lost."""
    from gcsearch.tuning.recorded import as_run, parse_stopping, replay

    outcome = open_results(study, fetched(studies, study))
    events = read_events(outcome.directory / LEDGER_NAME)
    actual = as_run(outcome.state)
    replays = [replay(events, parse_stopping(rule, outcome.state)) for rule in rules]
    if as_json:
        print_json(
            {
                "study": outcome.name,
                "as_run": actual.to_dict(),
                "replays": [{"rule": rule} | one.to_dict() for rule, one in zip(rules, replays, strict=True)],
            }
        )
        return
    metric = outcome.metric.removeprefix("eval/")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("stopping")
    for heading in ("images", "of full length", "completed", f"best {metric}", "worse by", "unknown"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, one in zip([f"as run: {_rule(actual.stopping)}", *rules], [actual, *replays], strict=True):
        table.add_row(name, *_cells(one))
    results.print(table)
    if any(not one.is_exact for one in replays):
        say(
            "unknown: trials that the rule lets go on beyond what was recorded, because the study itself stopped them. "
            "Images are then a lower bound, and one of these trials might have ended best."
        )
    say("Suggestions stay as they were; another rule would have shown the sampler other scores.")


def _rule(stopping: Mapping[str, Any]) -> str:
    return str(stopping.get("name", "?"))


def _cells(one: Replayed) -> list[str]:
    at_least = "" if one.is_exact else "≥ "
    return [
        f"{at_least}{images_text(one.images)}",
        f"{at_least}{100 * one.share:.0f} %",
        str(one.completed),
        "-" if one.best is None else f"{one.best:.3f}",
        "-" if one.loss is None else f"{one.loss:.3f}",
        str(len(one.unknown)) if one.unknown else "none",
    ]
