"""What all commands share: where the repository is, how results and errors are printed, how progress is drawn."""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, for scripts.")]
NOT_FOUND = 66  # EX_NOINPUT of sysexits.h: what was named does not exist
BAD_USAGE = 64  # EX_USAGE
BAD_DATA = 65  # EX_DATAERR
UNAVAILABLE = 69  # EX_UNAVAILABLE
# Errors that are no bugs, by name, because importing their modules to recognise them would load all of MLflow.
REFUSALS = {
    "components.run.record.UnknownRun": NOT_FOUND,
    "components.registry.package.UnknownModel": NOT_FOUND,
    "components.registry.package.RegistryError": BAD_USAGE,
    "components.serving.items.PromptError": BAD_USAGE,
    "components.services.ports.PortTaken": UNAVAILABLE,
    "components.services.stack.ServiceError": UNAVAILABLE,
    "mlflow.exceptions.MlflowException": UNAVAILABLE,
    "model.config.ConfigError": BAD_USAGE,
    "model.weights.WeightsError": BAD_DATA,
}


class CommandError(Exception):
    """A command cannot do what was asked: one line, with the fix, and the exit status."""

    def __init__(self, message: str, fix: str = "", status: int = 1) -> None:
        super().__init__(message)
        self.fix = fix
        self.status = status


def application(help_text: str) -> typer.Typer:
    """A group of commands; no traceback is ever drawn by typer, see `explained`."""
    return typer.Typer(
        help=help_text, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
    )


def out() -> Console:
    """Standard output, for results."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, markup=False)


def notes() -> Console:
    """Standard error, for progress and remarks: standard output stays a result that can be piped."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A plain table; a cell that is a rich Text keeps its style, any other is shown as it is."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    console = out()
    console.soft_wrap = False
    console.print(table)


@contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal while something runs, a line elsewhere; what is yielded says how far it is."""
    console = notes()
    if not console.is_terminal:
        console.print(f"{text} ...")
        yield console.print
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda told: progress.update(task, description=told)


def repository_root() -> Path:
    """The main checkout: $MMFS_ROOT, else the nearest folder above with params.yaml in a git repository. Raises CommandError."""
    if shutil.which("git") is None:
        raise CommandError("git is not installed", "install it, for example `apt install git`; every run is tied to a commit", UNAVAILABLE)
    found = nearest_root()
    if found is None:
        raise CommandError(f"no params.yaml in {Path.cwd()} or above it", "run mmfs inside a clone of its repository", BAD_USAGE)
    if os.environ.get("MMFS_ROOT"):
        return found
    if not (found / ".git").exists():
        raise CommandError(
            f"{found} is not a git repository", "run mmfs inside a clone (`git clone`): every run is tied to a commit", BAD_USAGE
        )
    return found


def nearest_root() -> Path | None:
    """$MMFS_ROOT, else the nearest folder above with params.yaml, be it a git repository or not."""
    if given := os.environ.get("MMFS_ROOT"):
        return Path(given).resolve()
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "params.yaml").is_file()), None)


@contextmanager
def explained() -> Iterator[None]:
    """Print what went wrong as one line on standard error and exit with its status; only a bug shows a traceback."""
    try:
        yield
    except CommandError as error:
        _exit(f"error: {error}", error.fix, error.status)
    except KeyboardInterrupt:
        _exit("interrupted", "", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        message, fix, status = _explain(error)
        if status == 70:
            traceback.print_exc()
        _exit(f"error: {message}", fix, status)


def _explain(error: Exception) -> tuple[str, str, int]:
    for known in type(error).__mro__:
        if (status := REFUSALS.get(f"{known.__module__}.{known.__qualname__}")) is not None:
            return str(error.args[0] if error.args else error).strip(), "", status
    from components.run.failures import explain

    problem = explain(error)
    return problem.message, problem.fix, problem.failure.exit_code


def _exit(line: str, fix: str, status: int) -> None:
    sys.stderr.write(line + (f" — {fix}" if fix else "") + "\n")
    sys.exit(status)
