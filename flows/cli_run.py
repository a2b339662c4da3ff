"""`mmfs run`: the whole line, from the input to a promoted model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.cli_output import BAD_USAGE, CommandError, Json, out, print_json, print_table, repository_root
from flows.options import RunOptions, RunResult

if TYPE_CHECKING:
    from flows.options import StageOutcome


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(run)


def run(
    preset: Annotated[str | None, typer.Option(help="Overlay params/NAME.yaml.", metavar="NAME", show_default=False)] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="One hyper-parameter; may be repeated.", metavar="KEY=VALUE", show_default=False)
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Your folder: documents.jsonl and its images.", metavar="PATH", show_default=False)
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks, with commas.", metavar="TASKS", show_default=False)] = None,
    first: Annotated[
        Literal["pretrain", "finetune"],
        typer.Option("--from", help="The first stage that trains; what it starts from is --init.", metavar="STAGE"),
    ] = "pretrain",
    init: Annotated[
        str | None,
        typer.Option(
            help="What it starts from: weights:FOLDER, components:FOLDER, models:/NAME@ALIAS.", metavar="START", show_default=False
        ),
    ] = None,
    earlier: Annotated[
        str | None,
        typer.Option(
            "--continue",
            help="Go on from a checkpoint of this run, its newest or RUN@STEP, with its parameters, but for those of --set.",
            metavar="RUN",
            show_default=False,
        ),
    ] = None,
    promote: Annotated[bool, typer.Option(help="Let the gate promote what is better.")] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start a new run where an equal one is unfinished.")] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Print what would be trained, write nothing and start nothing.")] = False,
    json_: Json = False,
) -> None:
    """Prepare the data, train, evaluate, register and promote, then write a report.

    A run that was stopped goes on where it was; a stage whose inputs did not change is Cached. Keys are explained in docs/params.md.

    Example: `mmfs run --preset small --set seed=1 --set pretrain.steps=2000 --tasks vqa,story`

    Example: `mmfs run --from finetune --init models:/mmfs-vqa@champion --tasks vqa`

    Example: `mmfs run --continue latest --set pretrain.ranks=1`
    """
    root = repository_root()
    recorded, continued = _continued(earlier, preset)
    overrides = [*recorded, *(assignments or ()), *_start(first, init), *continued]
    if tasks is not None:
        overrides.append(f"tasks=[{tasks}]")
    options = RunOptions(root, preset, tuple(overrides), data.resolve() if data else None, promote, fresh)
    if dry:
        from flows.cli_dry_run import dry_run

        dry_run(options, json_)
        return
    _check(options)
    from flows.cli_progress import stage_bars
    from flows.local import run as train

    with stage_bars() as watch:
        result = train(options, watch)
    show(result, json_)
    if result.status != "Completed":
        raise typer.Exit(exit_status(result))


def _start(first: str, init: str | None) -> list[str]:
    """What --from and --init mean in params.yaml. Raises CommandError."""
    from components.start import Start

    if init is None:
        if first == "pretrain":
            return []
        raise CommandError("--from finetune needs --init, what it starts from", "add --init models:/NAME@ALIAS", BAD_USAGE)
    try:
        start = Start.parse(init)
    except ValueError as error:
        raise CommandError(f"--init {error}", "docs/starting.md explains each", BAD_USAGE) from None
    if start.kind in ("components", "weights"):
        start = replace(start, address=str(Path(start.address).resolve()))  # a user's path is relative to where the user is
    skipped = ["pretrain.steps=0"] if first == "finetune" else []
    return [f"pretrain.init_from={json.dumps(str(start))}", *skipped]


def _continued(earlier: str | None, preset: str | None) -> tuple[list[str], list[str]]:
    """What --continue means in params.yaml: the run's own values, and the stage that it was at, held to the digest of its checkpoint.

    Raises CommandError, StageError.
    """
    if earlier is None:
        return [], []
    from components.committed import find_unfinished
    from components.continuation import Continuation
    from components.params import PARAMS_FILE, Params, read_mapping
    from components.run.parameters import assignments
    from components.run.record import RunRecords, recorded_file
    from components.settings import Settings

    if preset is not None:
        raise CommandError("--continue has the parameters of that run", "leave --preset out; --set changes single ones", BAD_USAGE)
    name, _, step = earlier.partition("@")
    if step and not step.isdecimal():
        raise CommandError(f"--continue {earlier}: {step!r} is no step", "write --continue RUN or --continue RUN@STEP", BAD_USAGE)
    settings = Settings(root=repository_root())
    found = find_unfinished(settings, RunRecords(settings.home).find(name).run_id, int(step) if step else None)
    origin = Continuation(found.run.run_id, found.step, found.digest)
    recorded = read_mapping(recorded_file(settings.home, found.run.run_id, PARAMS_FILE))
    own = assignments(read_mapping(settings.root / PARAMS_FILE), recorded)
    return own, [f"{Params.training_key(found.stage)}.continue_from={json.dumps(str(origin))}"]


def _check(options: RunOptions) -> None:
    """Say what is wrong with the parameters before an orchestrator is loaded for them. Raises ParamsError."""
    from components.run.parameters import resolve

    resolve(options.root, options.preset, options.overrides, options.data)


def show(result: RunResult, as_json: bool) -> None:
    """Print how a run ended and its names in Prefect, MLflow and DVC."""
    if as_json:
        print_json(result.as_dict())
        return
    print_table(("stage", "state", "seconds", ""), [(one.stage, one.state, f"{one.seconds:.1f}", _remark(one)) for one in result.stages])
    console = out()
    console.print()
    if result.models:
        print_table(
            ("model", "version", "decision", "why"),
            [(one.name, one.version, one.decision, "; ".join(one.reasons)) for one in result.models],
        )
        console.print()
    split = f"stage processes {result.process_seconds:.0f}, orchestration {result.orchestration_seconds:.0f}"
    console.print(f"{result.status} in {result.seconds:.0f} s ({split}): run {result.run_id}")
    console.print(f"  Prefect   flow run {result.prefect_flow_run_id}")
    console.print(f"  MLflow    run {result.mlflow_run_id}")
    console.print(f"  DVC       experiment {result.experiment or 'none saved'}")
    if result.report is not None:
        console.print(f"  report    {result.report}")
    if result.message:
        console.print(f"{result.message}" + (f" — {result.fix}" if result.fix else ""))


def exit_status(result: RunResult) -> int:
    """130 for a cancelled run, else the exit code of the failed stage's class."""
    from components.run.failures import FailureClass

    if result.status == "Cancelled":
        return 130
    failures = [FailureClass(one.failure).exit_code for one in result.stages if one.failure]
    return failures[0] if failures else 1


def _remark(one: StageOutcome) -> str:
    return f"{one.failure}: {one.message}" + (f" — {one.fix}" if one.fix else "") if one.failure else one.message
