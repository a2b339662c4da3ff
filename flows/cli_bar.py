"""A bar for work whose steps are counted: files and models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flows.cli_output import notes

Counted = Callable[[str, int, int], None]


@contextmanager
def counting(text: str) -> Iterator[Counted]:
    """A bar on a terminal while something runs, a line a step elsewhere; what is yielded takes what was done, how many of how many."""
    console = notes()
    if not console.is_terminal:
        console.print(f"{text} ...")
        yield lambda told, done, total: console.print(f"{told} ({done} of {total})")
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda told, done, total: progress.update(task, description=told, completed=done, total=total)
