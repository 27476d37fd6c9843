"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

Studies = Annotated[str, typer.Option("--studies", help="Folder that holds the studies, or its URI (s3://…).")]
Set = Annotated[Optional[list[str]], typer.Option("--set", metavar="KEY=VALUE", help="Override an experiment key.")]  # noqa: UP045 - typer reads it
Import = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it
    typer.Option("--import", metavar="MODULE", help="Module of your own that registers components."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Address = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it
    typer.Option(
        "--address",
        help="Ray cluster: auto or HOST:PORT on a node of it, ray://HOST:PORT from outside. Default: a Ray of its own.",
    ),
]
Tracking = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it
    typer.Option("--tracking", help="MLflow store. Default: $MLFLOW_TRACKING_URI, or mlflow.db beside the studies."),
]
