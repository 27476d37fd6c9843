"""The commands `gcsearch data ...`: options and help; the work is in `gcsearch.cli.data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

data = typer.Typer(help="Data sets and the image store.", no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Store = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads it
    typer.Option("--store", help="Folder of the image store. Default: $GCSEARCH_DATA, or ~/.cache/gcsearch/data."),
]
DataName = Annotated[str, typer.Argument(metavar="NAME|EXPERIMENT.yaml", help="Data set, or experiment that uses it.")]
Images = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads it
    typer.Option("--from", metavar="PATH", help="Archive, folder or table that holds the images."),
]
Resolution = Annotated[
    Optional[int],  # noqa: UP045 - typer reads it
    typer.Option("--resolution", help="Height and width of the stored images."),
]
DataSet = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it
    typer.Option("--set", metavar="KEY=VALUE", help="Other settings of the data set, e.g. crop=140."),
]


@data.command("list")
def data_list(store: Store = None, json: Json = False) -> None:
    """List the data sets and what is prepared.

    Example: `gcsearch data list`
    """
    from gcsearch.cli.data import list_command

    list_command(store, as_json=json)


@data.command("prepare")
def data_prepare(
    name: DataName,
    source: Images = None,
    resolution: Resolution = None,
    set_: DataSet = None,
    store: Store = None,
    again: Annotated[bool, typer.Option("--again", help="Convert even if it is prepared.")] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Take files that are not the published ones.")] = False,
    json: Json = False,
) -> None:
    """Convert a data set into the image store.

    It is fetched first if it can be.

    An interrupted download or conversion goes on when the same command is run again.

    Example: `gcsearch data prepare folder --from ~/photos --resolution 32`
    """
    from gcsearch.cli.data import prepare_command

    options = set_ or []
    raise typer.Exit(prepare_command(name, source, resolution, options, store, again=again, trust=trust, as_json=json))


@data.command("info")
def data_info(
    name: DataName,
    source: Images = None,
    resolution: Resolution = None,
    set_: DataSet = None,
    store: Store = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read all pixels and check their hash.")] = False,
    json: Json = False,
) -> None:
    """Show what is known of a data set: size, source, statistics.

    Example: `gcsearch data info fashion_mnist --verify`
    """
    from gcsearch.cli.data import info_command

    info_command(name, source, resolution, set_ or [], store, verify=verify, as_json=json)
