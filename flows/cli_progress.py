"""How a running flow is drawn: a bar per stage on a terminal, a line per change elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from flows.cli_output import notes
from flows.options import StageProgress, Watch

SHOWN_METRICS = 3
_MARKS = {
    "Pending": "[dim]waiting[/dim]",
    "Running": "[cyan]running[/cyan]",
    "Completed": "[green]done[/green]",
    "Cached": "[green]cached[/green]",
    "Failed": "[red]failed[/red]",
    "Cancelled": "[yellow]cancelled[/yellow]",
    "Changed": "[yellow]changed[/yellow]",
}


@contextmanager
def stage_bars() -> Iterator[Watch]:
    """A function that takes the stages' progress and shows it on standard error."""
    console = notes()
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TextColumn("{task.fields[state]:<9}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress)


class Bars:
    """One bar a stage, in the order in which stages are first heard of."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, news: StageProgress) -> None:
        """Draw one piece of news."""
        if news.stage not in self._tasks:
            self._tasks[news.stage] = self._progress.add_task(news.stage, total=None, start=False, state="", note="")
        task = self._tasks[news.stage]
        if news.state == "Running":
            self._progress.start_task(task)
        ended = news.state not in ("Pending", "Running")
        total, done = (news.total or 1.0, news.total or 1.0) if ended and news.state != "Failed" else (news.total or None, news.done)
        self._progress.update(task, total=total, completed=done, state=_MARKS[news.state], note=_note(news))
        if ended:
            self._progress.stop_task(task)


class Lines:
    """One line when a stage changes its state, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._states: dict[str, str] = {}

    def __call__(self, news: StageProgress) -> None:
        """Print one piece of news unless the stage's state is known or says nothing yet."""
        if news.state != "Pending" and self._states.get(news.stage) != news.state:
            self._states[news.stage] = news.state
            self._console.print(f"{news.stage}: {_MARKS[news.state]} {escape(news.message)}".rstrip(), markup=True)


def _note(news: StageProgress) -> str:
    parts = [f"{news.done:.0f}/{news.total:.0f} {news.unit}"] if news.total else []
    parts += [f"{name} {value:.4g}" for name, value in list(news.metrics.items())[:SHOWN_METRICS]]
    return escape(news.message or ", ".join(parts))
