"""The commands `plan` and `replay`: options and help; the work is in `gcsearch.cli.planning`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from gcsearch.cli.options import Import, Json, Set, Studies


def plan(
    space: Annotated[Path, typer.Argument(metavar="SPACE.yaml", help="Search space.")],
    experiment: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it
        typer.Option("--experiment", help="Plan the study on this experiment instead."),
    ] = None,
    trials: Annotated[Optional[int], typer.Option("--trials", help="Replace budget.trials.")] = None,  # noqa: UP045
    set_: Set = None,
    import_: Import = None,
    json: Json = False,
) -> None:
    """Check a study and say what it will do and cost; start nothing.

    Trials per rung come from simulated studies with random scores, hours from a few steps measured on this machine.

    Example: `gcsearch plan search_spaces/mu_schedule.yaml --trials 48`
    """
    from gcsearch.cli.planning import plan_command

    plan_command(
        space, experiment=experiment, trials=trials, assignments=set_ or [], imports=import_ or [], as_json=json
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
    """Say what other stopping rules would have cost and lost, on the curves that a study has recorded.

    Example: `gcsearch replay mu_schedule --stopping '{name: asha, factor: 4}' --stopping median`
    """
    from gcsearch.cli.planning import replay_command

    replay_command(study, stopping, studies, as_json=json)
