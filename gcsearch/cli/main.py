"""The `gcsearch` command. Each command parses, calls the library and prints; imports are inside to keep help quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from gcsearch.cli import data_app, sample_app, search_app
from gcsearch.cli.options import Address, Import, Json, Set, Studies, Tracking
from gcsearch.cli.report import report
from gcsearch.errors import GCSearchError

app = typer.Typer(
    name="gcsearch",
    help="Find and prove the best recipe for training consistency models with generator-augmented coupling.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(data_app.data, name="data")


@app.command()
def run(
    space: Annotated[Path, typer.Argument(metavar="SPACE.yaml", help="Search space.")],
    experiment: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it
        typer.Option("--experiment", help="Run the study on this experiment instead."),
    ] = None,
    name: Annotated[Optional[str], typer.Option("--name", help="Name of the study.")] = None,  # noqa: UP045
    trials: Annotated[Optional[int], typer.Option("--trials", help="Replace budget.trials.")] = None,  # noqa: UP045
    set_: Set = None,
    import_: Import = None,
    address: Address = None,
    tracking: Tracking = None,
    studies: Studies = "studies",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the study; start nothing.")] = False,
    json: Json = False,
) -> None:
    """Start, resume or extend a study.

    Run the same command again to resume; raise `--trials` to extend.

    Example: `gcsearch run search_spaces/mu_schedule.yaml --trials 48 --set training.batch_size=128`
    """
    from gcsearch.cli.study import run_command

    code = run_command(
        space,
        experiment=experiment,
        name=name,
        trials=trials,
        assignments=set_ or [],
        imports=import_ or [],
        address=address,
        tracking=tracking,
        studies=studies,
        dry_run=dry_run,
        as_json=json,
    )
    raise typer.Exit(code)


app.command()(search_app.ablate)
app.command()(search_app.plan)
app.command()(search_app.replay)


@app.command()
def train(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT.yaml", help="Experiment file, or its name.")],
    set_: Set = None,
    import_: Import = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it
        typer.Option("--output", help="Folder of the run. Default: runs/<name>."),
    ] = None,
    workers: Annotated[
        Optional[int],  # noqa: UP045 - typer reads it
        typer.Option("--workers", help="Processes that share every batch. Default: training.num_workers."),
    ] = None,
    cpus_per_worker: Annotated[
        int, typer.Option("--cpus-per-worker", help="CPU threads; equal numbers give equal bits.")
    ] = 1,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    json: Json = False,
) -> None:
    """Train one experiment, without a search. Resumes if the output folder holds its checkpoint.

    Example: `gcsearch train experiments/digits.yaml --set coupling.mu=0.3`
    """
    from gcsearch.cli.training import train_command

    code = train_command(
        experiment,
        assignments=[*(set_ or []), *([] if workers is None else [f"training.num_workers={workers}"])],
        imports=import_ or [],
        output=output,
        num_threads=cpus_per_worker,
        device=device,
        as_json=json,
    )
    raise typer.Exit(code)


@app.command()
def show(
    study: Annotated[Optional[str], typer.Argument(help="Name or folder of a study; none lists all.")] = None,  # noqa: UP045
    studies: Studies = "studies",
    json: Json = False,
) -> None:
    """List the studies, or show one: leaderboard, states, cost.

    Example: `gcsearch show mu_schedule`
    """
    from gcsearch.cli.study import show_command

    show_command(study, studies, as_json=json)


@app.command()
def export(
    study: Annotated[str, typer.Argument(help="Name or folder of a study or training run.")],
    trial: Annotated[Optional[str], typer.Option("--trial", help="Trial to export. Default: the winner.")] = None,  # noqa: UP045
    output: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it
        typer.Option("--output", help="Folder to write. Default: exports/<study>."),
    ] = None,
    register: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it
        typer.Option("--register", metavar="NAME[@ALIAS]", help="Register it as a model in MLflow, too."),
    ] = None,
    diffusers: Annotated[
        bool, typer.Option("--diffusers", help="Write a folder that diffusers reads, too; networks of name unet only.")
    ] = False,
    tracking: Tracking = None,
    studies: Studies = "studies",
    json: Json = False,
) -> None:
    """Write the best recipe, its weights, samples and model card.

    With them goes where it comes from: versions, data, seeds, command.

    With `--register digits@champion`, any program gets it by `mlflow.pyfunc.load_model("models:/digits@champion")`.
    With `--diffusers`, the folder `diffusers` in it is a ConsistencyModelPipeline that draws the same images.

    Example: `gcsearch export mu_schedule --output best_digits`
    """
    from gcsearch.cli.study import export_command

    export_command(
        study, trial, output, studies, register=register, diffusers=diffusers, tracking=tracking, as_json=json
    )


app.command()(report)


app.command()(sample_app.sample)


@app.command()
def evaluate(
    path: Annotated[
        Path, typer.Argument(metavar="EXPORT|CHECKPOINT|FOLDER", help="Export, .pt file, or folder of images.")
    ],
    data: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it
        typer.Option("--data", help="Data set to compare with; a model knows its own, a folder of images does not."),
    ] = None,
    metrics: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it
        typer.Option("--metrics", help="With commas: fid,kid,is,precision_recall. Default: the experiment's."),
    ] = None,
    num: Annotated[
        Optional[int],  # noqa: UP045 - typer reads it
        typer.Option("--num", min=1, help="Samples. Default: the experiment's; all images of a folder."),
    ] = None,
    steps: Annotated[
        Optional[int],  # noqa: UP045 - typer reads it
        typer.Option("--steps", min=1, help="Network evaluations per sample. Default: the experiment's sampler."),
    ] = None,
    extractor: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it
        typer.Option("--extractor", help="Feature extractor. Default: the experiment's, or the data set's own."),
    ] = None,
    inception_weights: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it
        typer.Option("--inception-weights", help="File of Inception's weights. Default: $GCSEARCH_INCEPTION."),
    ] = None,
    bootstrap: Annotated[int, typer.Option("--bootstrap", help="Resamples for the intervals; 0 for none.")] = 200,
    seed: Annotated[Optional[int], typer.Option("--seed", min=0, help="Seed. Default: the evaluation's.")] = None,  # noqa: UP045
    workers: Annotated[int, typer.Option("--workers", help="Processes; the result does not depend on it.")] = 1,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    search_level: Annotated[
        bool, typer.Option("--search-level", help="Search the level of a second step by the first metric instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Score a model or a folder of images: FID, KID and others.

    The others are the inception score, precision and recall; the images may be anybody's.

    A checkpoint gets the number that its training recorded; `--num 50000` is what papers report.

    Example: `gcsearch evaluate exports/mu_schedule --metrics fid,kid,is,precision_recall --num 10000`
    """
    from gcsearch.cli.evaluation import evaluate_command

    code = evaluate_command(
        path,
        data=data,
        metrics=metrics,
        num=num,
        steps=steps,
        extractor=extractor,
        inception_weights=inception_weights,
        num_resamples=bootstrap,
        seed=seed,
        num_workers=workers,
        device=device,
        with_level_search=search_level,
        as_json=json,
    )
    raise typer.Exit(code)


@app.command()
def diagnose(
    target: Annotated[
        str, typer.Argument(metavar="EXPERIMENT.yaml|CHECKPOINT", help="Experiment, .pt file, or folder of an export.")
    ],
    couplings: Annotated[str, typer.Option("--couplings", help="Couplings to compare.")] = "independent,ot,generator",
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds of every coupling.")] = "0,1,2,3,4",
    num_batches: Annotated[int, typer.Option("--num-batches", help="Batches per measurement.")] = 32,
    denoiser_steps: Annotated[int, typer.Option("--denoiser-steps", help="Training of each denoiser.")] = 2000,
    set_: Set = None,
    import_: Import = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it
        typer.Option("--output", help="Folder of numbers and figures. Default: diagnoses/<name>."),
    ] = None,
    cpus: Annotated[int, typer.Option("--cpus", help="CPU threads; equal numbers give equal bits.")] = 1,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    json: Json = False,
) -> None:
    """Measure what each coupling does to training.

    Gradient variance, transport cost, distance to the PF-ODE, proxy R.

    An experiment is trained once for each coupling and seed; a checkpoint's weights stay as they are. Run the same
    command again to resume.

    Example: `gcsearch diagnose experiments/gaussians_1m2m.yaml --couplings independent,generator`
    """
    from gcsearch.cli.diagnose import diagnose_command

    code = diagnose_command(
        target,
        couplings=couplings,
        seeds=seeds,
        num_batches=num_batches,
        denoiser_steps=denoiser_steps,
        assignments=set_ or [],
        imports=import_ or [],
        output=output,
        num_threads=cpus,
        device=device,
        as_json=json,
    )
    raise typer.Exit(code)


@app.command()
def sync(
    study: Annotated[str, typer.Argument(help="Name or folder of a study.")],
    tracking: Tracking = None,
    studies: Studies = "studies",
) -> None:
    """Write a study's ledger into an MLflow store.

    Again if need be: nothing is there twice.

    Example: `gcsearch sync mu_schedule --tracking http://127.0.0.1:5000`
    """
    from gcsearch.cli.study import sync_command

    raise typer.Exit(sync_command(study, tracking, studies))


@app.command("import-config")
def import_config(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML file of the GC paper's published code.")],
    output: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it
        typer.Option("--output", metavar="OUT.yaml", help="Experiment file to write. Default: print it."),
    ] = None,
    json: Json = False,
) -> None:
    """Turn a config of the GC paper's code into an experiment.

    It says what became of each key.

    Example: `gcsearch import-config configs/cifar10_GC_mix50.yaml --output cifar10_gc.yaml`
    """
    from gcsearch.cli.configs import import_command

    import_command(file, output, as_json=json)


@app.command()
def ui(
    tracking: Tracking = None,
    studies: Studies = "studies",
    port: Annotated[int, typer.Option("--port", help="Port on 127.0.0.1; the next free one if it is taken.")] = 5000,
) -> None:
    """Open the MLflow page of the local store on 127.0.0.1.

    Example: `gcsearch ui --port 5001`
    """
    from gcsearch.cli.study import ui_command

    ui_command(tracking, studies, port)


@app.command()
def doctor(
    address: Address = None, tracking: Tracking = None, studies: Studies = "studies", json: Json = False
) -> None:
    """Check the set-up, and say what to do where it lacks.

    Ray, GPU, MLflow, disk, data and Inception weights.

    Exit code 2 if something is broken; what only some work needs may be missing.

    Example: `gcsearch doctor --address auto`
    """
    from gcsearch.cli.doctor import doctor_command

    raise typer.Exit(doctor_command(address, tracking, studies, as_json=json))


def main() -> None:
    """Entry point: run a command; an error of the user's becomes one line and an exit code."""
    from gcsearch.cli.console import progress, set_up_logging

    set_up_logging()
    try:
        app()
    except GCSearchError as error:
        progress.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone, as in `gcsearch show | head`; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
