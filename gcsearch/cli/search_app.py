"""The commands `ablate`, `plan` and `replay`: options and help; the work is elsewhere in `gcsearch.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from gcsearch.cli.options import Address, Import, Json, Set, Studies, Tracking


def ablate(
    ablation: Annotated[Path, typer.Argument(metavar="ABLATION.yaml", help="Ablation file.")],
    experiment: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it
        typer.Option("--experiment", help="Run the ablation on this experiment instead."),
    ] = None,
    name: Annotated[Optional[str], typer.Option("--name", help="Name of the ablation.")] = None,  # noqa: UP045
    until_decided: Annotated[
        bool, typer.Option("--until-decided", help="Add seeds where the verdict is open, up to max_seeds.")
    ] = False,
    noise: Annotated[
        bool,
        typer.Option(
            "--noise", help="Then measure what makes the reference's scores noisy: sampling only, no training."
        ),
    ] = False,
    set_: Set = None,
    import_: Import = None,
    address: Address = None,
    tracking: Tracking = None,
    studies: Studies = "studies",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print it resolved, start nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Start, resume or extend an ablation; print its verdicts.

    Example: `gcsearch ablate experiments/ablations/coupling.yaml --experiment gaussians_2m2m`
    """
    from gcsearch.cli.ablation import ablate_command

    code = ablate_command(
        ablation,
        experiment=experiment,
        name=name,
        is_sequential=until_decided,
        with_noise=noise,
        assignments=set_ or [],
        imports=import_ or [],
        address=address,
        tracking=tracking,
        studies=studies,
        dry_run=dry_run,
        as_json=json,
    )
    raise typer.Exit(code)


def plan(
    space: Annotated[Path, typer.Argument(metavar="SPACE.yaml|ABLATION.yaml", help="Search space or ablation.")],
    experiment: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it
        typer.Option("--experiment", help="Plan the study on this experiment instead."),
    ] = None,
    trials: Annotated[Optional[int], typer.Option("--trials", help="Replace budget.trials.")] = None,  # noqa: UP045
    set_: Set = None,
    import_: Import = None,
    studies: Studies = "studies",
    json: Json = False,
) -> None:
    """Say what a study or an ablation will do and cost.

    It checks the file and starts nothing.

    Trials per rung come from simulated studies with random scores, hours from a few steps measured on this machine, the
    noise of an ablation's scores from earlier ones of the same baseline.

    Example: `gcsearch plan search_spaces/mu_schedule.yaml --trials 48`
    """
    from gcsearch.cli.planning import plan_command

    plan_command(
        space,
        experiment=experiment,
        trials=trials,
        assignments=set_ or [],
        imports=import_ or [],
        studies=studies,
        as_json=json,
    )


def replay(
    study: Annotated[str, typer.Argument(help="Name or folder of a study.")],
    stopping: Annotated[
        list[str],
        typer.Option("--stopping", metavar="RULE", help="As in a study file: asha, or {name: asha, factor: 4}."),
    ],
    studies: Studies = "studies",
    json: Json = False,
) -> None:
    """Say what other stopping rules would have cost and lost.

    They are run on the curves that a study has recorded.

    Example: `gcsearch replay mu_schedule --stopping '{name: asha, factor: 4}' --stopping median`
    """
    from gcsearch.cli.planning import replay_command

    replay_command(study, stopping, studies, as_json=json)
