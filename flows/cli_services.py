"""`mmfs up`, `down` and `status`: the servers of this checkout."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli_output import Json, out, print_json, print_table, repository_root, working

if TYPE_CHECKING:
    from components.services.stack import ServiceName, ServiceStatus, Stack


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)
    app.command()(status)


def up(
    prefect_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of Prefect's UI; 4200 or a free one.", show_default=False)
    ] = None,
    mlflow_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of MLflow's UI; 5000 or a free one.", show_default=False)
    ] = None,
    json_: Json = False,
) -> None:
    """Start Prefect's server, MLflow's server and a worker in the background, on this machine only.

    What runs already is left alone. Logs are kept in .mmfs/services. Afterwards `prefect deploy --all` and schedules work.

    Example: `mmfs up && prefect deploy --all`
    """
    stack = _stack()
    asked: dict[ServiceName, int] = {}
    if prefect_port is not None:
        asked["prefect"] = prefect_port
    if mlflow_port is not None:
        asked["mlflow"] = mlflow_port
    with working("Starting Prefect, MLflow and the worker"):
        found = stack.up(asked)
    _show(found, json_)


def down(json_: Json = False) -> None:
    """Stop the servers and the worker with everything they started. Runs, models and logs stay.

    A run that the worker was executing is stopped too; start it again and it goes on where it was.

    Example: `mmfs down`
    """
    with working("Stopping"):
        stopped = _stack().down()
    if json_:
        print_json({"stopped": stopped})
    else:
        out().print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


def status(json_: Json = False) -> None:
    """Show which servers run and where. The exit status is 0 when all are healthy, 1 otherwise.

    Example: `mmfs status --json | jq -r '.[] | select(.name == "mlflow").url'`
    """
    found = _stack().status()
    _show(found, json_)
    if any(service.state != "healthy" for service in found):
        raise typer.Exit(1)


def _stack() -> Stack:
    from components.services.stack import Stack
    from components.settings import quiet

    root = repository_root()
    environment = dict(os.environ)
    quiet(environment)
    return Stack(root, {**environment, "MMFS_ROOT": str(root), "PREFECT_HOME": str(root / ".mmfs" / "prefect")})


def _show(found: list[ServiceStatus], as_json: bool) -> None:
    if as_json:
        print_json([asdict(service) for service in found])
    else:
        print_table(("service", "state", "address"), [(service.name, service.state, service.url) for service in found])
        out().print(f"logs in {Path(found[0].log).parent}")
