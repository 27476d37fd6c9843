"""The command `ablate`, and what an ablation looks like in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from gcsearch.analysis.ablation import (
    AblationResults,
    ablation_results,
    change_text,
    correction_text,
    p_text,
    path_text,
    score_text,
    seeds_saved,
    verdict_text,
)
from gcsearch.analysis.ablation import write_verdicts as write_files
from gcsearch.analysis.noise import noise_sentences
from gcsearch.analysis.results import StudyResults, open_results
from gcsearch.analysis.wording import duration_text
from gcsearch.cli.console import print_json, progress, results, say, tell
from gcsearch.cli.outside import run_outside
from gcsearch.cli.studies import fetched, mirrored
from gcsearch.cli.study import print_place, run_tracked, store_uri
from gcsearch.config.documents import dump_yaml

STYLES = {"better": "green", "worse": "red", "equivalent": "cyan", "inconclusive": "dim", "diverged": "yellow"}
"""Colour of each verdict; the word is always printed."""

WIDE = 140
"""Columns from which the comparisons at equal cost are shown beside those at equal images."""


def ablate_command(
    path: Path,
    *,
    experiment: str | None,
    name: str | None,
    is_sequential: bool,
    with_noise: bool,
    assignments: Sequence[str],
    imports: Sequence[str],
    address: str | None,
    tracking: str | None,
    studies: str,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Run an ablation and print its verdicts. Exit code 1 if a training failed, 130 if interrupted."""
    from gcsearch.tuning.ablation import load_ablation
    from gcsearch.tuning.cluster import is_outside
    from gcsearch.tuning.study import check_unchanged, run_ablation

    ablation = load_ablation(path, experiment=experiment, name=name, assignments=assignments, imports=imports)
    ablation.plan(is_sequential)  # refuses what the design cannot do
    if dry_run:
        check_unchanged(ablation, fetched(studies, ablation.name, may_be_new=True) / ablation.name)
        if as_json:
            print_json(ablation.to_dict() | {"arms": [arm.name for arm in ablation.arms]})
        else:
            results.print(dump_yaml(ablation.to_dict()), markup=False, end="")
            count = len(ablation.arms) * len(ablation.seeds)
            first = "The first step: " if ablation.design == "path" else ""
            results.print(
                f"# {first}{len(ablation.arms)} arms on {len(ablation.seeds)} seeds: {count} trainings.", markup=False
            )
        return 0
    if is_outside(address):
        flags = {"--until-decided": is_sequential, "--noise": with_noise}
        options = [flag for flag, is_set in flags.items() if is_set]
        return run_outside(
            "ablate", path, ablation, options, address=address, tracking=tracking, studies=studies, as_json=as_json
        )
    ablation.prepare(tell)
    if with_noise:
        fetched(studies, ablation.name, checkpoints=True, may_be_new=True)  # of trainings that ended elsewhere
    with mirrored(studies, ablation.name) as (folder, mirrors):
        check_unchanged(ablation, folder / ablation.name)
        uri = store_uri(tracking, folder)
        code = run_tracked(
            ablation.name,
            folder,
            uri,
            None if is_sequential or ablation.design == "path" else len(ablation.arms) * len(ablation.seeds),
            lambda observers: run_ablation(
                ablation, folder, is_sequential=is_sequential, address=address, observers=[*observers, *mirrors]
            ),
        )
        if with_noise and not code:
            _measure_noise(folder / ablation.name, ablation.resources.cpus_per_worker)
        outcome = open_results(folder / ablation.name)
        write_files(outcome)
    if as_json:
        print_json(ablation_json(outcome))
    else:
        print_ablation(outcome)
        print_place(outcome, studies, is_interrupted=code == 130, tracking=uri)
    return code or (1 if any(outcome.state.of_state("failed")) else 0)


def _measure_noise(directory: Path, cpus: int) -> None:
    from gcsearch.noise_measurement import measure_noise

    with progress.status("Measuring the noise…") if progress.is_terminal else nullcontext() as status:

        def show(done: int, total: int) -> None:
            if status is not None:
                status.update(f"Measuring the noise: {done} of {total} sets of samples…")

        num = measure_noise(directory, cpus=cpus, on_score=show)
    progress.print(f"Noise: {num} sets of samples drawn and scored.")


def print_ablation(outcome: StudyResults) -> None:
    """Verdicts, arms, and what to make of them."""
    found = ablation_results(outcome)
    results.print(_verdicts(found, results.width))
    results.print(_arms(found, outcome))
    for text in _sentences(found):
        say(text)
    if found.noise is not None:
        for text in noise_sentences(found.noise):
            say(text)


def ablation_json(outcome: StudyResults) -> dict[str, object]:
    """An ablation for ``--json``."""
    return {
        "study": outcome.name,
        "directory": str(outcome.directory),
        "ended": outcome.state.ended,
        "objective": outcome.state.study["objective"],
        "counts": outcome.counts(),
        **ablation_results(outcome).to_dict(),
    }


def _verdicts(found: AblationResults, width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("change" if found.plan.steps else f"against {found.plan.arms[0]}", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    is_wide = width >= WIDE
    headings = ["change [95 %]", *(["at equal forwards", "at equal time"] if is_wide else []), "p", "seeds", "r"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for index, one in enumerate(found.main):
        comparison = one.judgement.comparison if one.judgement else None
        correlation = comparison.correlation if comparison else None
        others = [change_text(found.by_axis[axis][index]) for axis in ("cost/forward_units", "cost/train_seconds")]
        table.add_row(
            one.contrast.name,
            Text(verdict_text(one), style=STYLES.get(one.verdict, "")),
            change_text(one),
            *(others if is_wide else []),
            p_text(one),
            str(one.judgement.num if one.judgement else 0),
            "-" if correlation is None else f"{correlation:.2f}",
        )
    return table


def _arms(found: AblationResults, outcome: StudyResults) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    metric, extractor = outcome.metric.removeprefix("eval/"), outcome.extractor()
    table.add_column("arm")
    table.add_column(f"{metric} ({extractor}): mean [95 %]" if extractor else f"{metric}: mean [95 %]", no_wrap=True)
    table.add_column("seeds", justify="right")
    table.add_column("training", justify="right")
    for row in found.arms:
        seconds = "-" if row.seconds is None else duration_text(row.seconds)
        table.add_row(row.name, score_text(row), str(row.num_seeds), seconds)
    return table


def _sentences(found: AblationResults) -> list[str]:
    plan = found.plan
    texts = [
        "change: mean difference on paired seeds, in percent of the reference; r: correlation of the pairs. Verdicts "
        f"are corrected for {correction_text(plan)} (Holm, 5 %); equivalent: within {plan.margin}."
    ]
    if plan.steps:
        texts.insert(0, path_text(found))
    saved = seeds_saved(found.main)
    if saved is not None:
        texts.append(f"Without pairing, intervals as narrow would need {max(0, saved):.0f} more seeds (median).")
    still = [one.contrast.name for one in found.main if one.is_open]
    if still and len(plan.looks) == 1 and not plan.steps:
        texts.append(f"Undecided: {len(still)} of {len(found.main)}. --until-decided adds seeds for these.")
    return texts
