"""The rim of every program of the line: quiet tools, signals as exceptions, one clear line and an exit code for a failure."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable

from components.run.events import EventWriter
from components.run.failures import FailureClass, StageError, explain
from components.run.process import raise_on_termination
from components.settings import Settings, quiet, without_secrets


def guarded(name: str, action: Callable[[Settings, EventWriter], None]) -> int:
    """Run `action`; 0, or the exit code of its failure's class. The traceback is printed for bugs only, no secret of an address ever."""
    quiet(os.environ)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    raise_on_termination()
    settings = Settings()
    events = EventWriter(settings.events)
    try:
        action(settings, events)
        return 0
    except (Exception, KeyboardInterrupt) as error:
        problem = explain(error)
        if problem.failure is FailureClass.BUG:
            sys.stderr.write(without_secrets(traceback.format_exc()))
        sys.stderr.write(without_secrets(f"{name}: {problem.line()}\n"))
        _tell(events, problem)
        return problem.failure.exit_code


def _tell(events: EventWriter, problem: StageError) -> None:
    try:
        events.failed(problem.failure, without_secrets(problem.message), problem.fix)
    except OSError as error:
        sys.stderr.write(f"the failure could not be recorded: {error}\n")
