"""`mmfs runs`, `logs` and `cancel`: the runs of this checkout, however they were started."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli_output import NOT_FOUND, UNAVAILABLE, CommandError, Json, out, print_json, print_table, repository_root, working

if TYPE_CHECKING:
    from components.run.record import RunRecord, RunRecords

Name = Annotated[str, typer.Argument(metavar="RUN", help="A run, a unique beginning of its name, or `latest`.", show_default=False)]
CANCEL_TIMEOUT_S = 120.0
SHOWN_CHARACTERS = 8  # of the ids that Prefect and MLflow give; --json has them whole


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(runs)
    app.command()(logs)
    app.command()(cancel)


def runs(limit: Annotated[int, typer.Option(min=1, help="Show the latest so many.")] = 20, json_: Json = False) -> None:
    """List the runs, latest first, with their names in Prefect, MLflow and DVC.

    Example: `mmfs runs --json | jq -r '.[0].mlflow_run_id'`
    """
    found = _records().all()[:limit]
    if json_:
        print_json([_as_json(run) for run in found])
    elif not found:
        out().print("no runs yet; `mmfs run` starts one")
    else:
        columns = ("run", "state", "started (UTC)", "took", "Prefect", "MLflow", "DVC experiment")
        print_table(columns, [_row(run) for run in found])


def logs(
    name: Name = "latest",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    stage: Annotated[str | None, typer.Option(help="Only this stage, such as pretrain or finetune@vqa.", show_default=False)] = None,
) -> None:
    """Print what the stages of a run wrote, each line with its stage.

    Example: `mmfs logs latest -f`
    """
    records = _records()
    run = records.find(name)
    folder = records.home.run(run.run_id).log("any").parent
    wanted = records.home.run(run.run_id).log(stage).name if stage else None
    if wanted and not follow and not (folder / wanted).exists():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.log"))) or "none yet"
        raise CommandError(f"run {run.run_id} has no log of stage {stage}", f"stages with a log: {known}", NOT_FOUND)
    for path, line in read_lines(folder, (lambda: not records.find(run.run_id).is_alive()) if follow else (lambda: True)):
        if wanted in (None, path.name):
            sys.stdout.write(f"{path.stem:<24} {line}\n" if wanted is None else f"{line}\n")
            sys.stdout.flush()


def cancel(name: Name = "latest", json_: Json = False) -> None:
    """Stop a run and everything it started. What is finished stays; the same `mmfs run` goes on from there.

    Example: `mmfs cancel latest`
    """
    records = _records()
    run = records.find(name)
    if not run.is_alive():
        raise CommandError(f"run {run.run_id} is not running: {run.state}", "`mmfs runs` lists the runs and their states", NOT_FOUND)
    with working(f"Stopping {run.run_id}"):
        if not _cancel_through_prefect(records.home.root, run):
            records.cancel(run)
        ended = _wait(records, run)
    if json_:
        print_json(_as_json(ended))
    else:
        out().print(f"run {ended.run_id} is {ended.state.lower()}")


def read_lines(folder: Path, ended: Callable[[], bool], interval_s: float = 0.2) -> Iterator[tuple[Path, str]]:
    """Complete lines of all *.log files of a folder, the file that was written last comes last, until `ended()` and nothing is left."""
    offsets: dict[Path, int] = {}
    while True:
        last_round = ended()
        for path in sorted(folder.glob("*.log"), key=lambda one: one.stat().st_mtime_ns):
            with path.open("rb") as file:
                file.seek(offsets.setdefault(path, 0))
                data = file.read()
            complete = data if last_round else data[: data.rfind(b"\n") + 1]
            offsets[path] += len(complete)
            yield from ((path, line) for line in complete.decode(errors="replace").splitlines())
        if last_round:
            return
        time.sleep(interval_s)


def _cancel_through_prefect(root: Path, run: RunRecord) -> bool:
    """Cancel a worker's run where its Prefect server can be asked, so that its state there is Cancelled; False for a run of `mmfs run`."""
    from components.services import health
    from components.services.stack import Stack

    api = Stack(root, os.environ).api_url()
    if api is None or not run.prefect_flow_run_id:
        return False
    try:
        return health.cancel_flow_run(api, run.prefect_flow_run_id)
    except OSError:
        return False


def _wait(records: RunRecords, run: RunRecord) -> RunRecord:
    deadline = time.monotonic() + CANCEL_TIMEOUT_S
    while (now := records.find(run.run_id)).is_alive():
        if time.monotonic() > deadline:
            raise CommandError(
                f"run {run.run_id} has not ended within {CANCEL_TIMEOUT_S:.0f} s", "ask again, or look at `mmfs logs`", UNAVAILABLE
            )
        time.sleep(0.2)
    return now


def _records() -> RunRecords:
    from components.run.paths import Home
    from components.run.record import RunRecords

    return RunRecords(Home(repository_root()))


def _as_json(run: RunRecord) -> dict[str, Any]:
    return asdict(run)


def _row(run: RunRecord) -> tuple[object, ...]:
    started = datetime.fromtimestamp(run.started, UTC)
    seconds = run.result.get("seconds", run.ended - run.started if run.ended else None)  # of its last command, as that one said
    took = "" if seconds is None else f"{seconds:.0f} s"
    return (
        run.run_id,
        run.state,
        f"{started:%Y-%m-%d %H:%M}",
        took,
        run.prefect_flow_run_id[:SHOWN_CHARACTERS],
        run.mlflow_run_id[:SHOWN_CHARACTERS],
        run.experiment,
    )
