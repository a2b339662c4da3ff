"""Flows run by a command on this machine. Nothing heavy is imported before the Prefect server, the slowest to come up, is on its way."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from components.run.failures import StageError, full_disk
from flows.options import ReproduceResult, RunOptions, RunResult, Watch
from flows.orchestrator import api

FULL_BYTES = 8 * 2**20


def run(options: RunOptions, watch: Watch = lambda news: None) -> RunResult:
    """Train as asked and wait for the end; a failed or cancelled run is a result too. Raises ParamsError or StageError before any work."""
    opened = time.time()
    told: list[RunResult] = []
    with terminable(), full_disk_named(options.root), api(options.root) as wait:
        from prefect.logging.handlers import APILogHandler

        from flows.training import open_training, train_flow

        training = open_training(options, opened)
        flow = train_flow(lambda: options.root, lambda _: training, watch, told.append)
        try:
            wait()
            state: Any = flow(
                preset=options.preset,
                overrides=list(options.overrides),
                data=str(options.data) if options.data else None,
                promote=options.promote,
                fresh=options.fresh,
                return_state=True,
            )
            if not told:
                state.result()  # raises what kept the flow from telling how it ended
        except BaseException:
            if not told:
                training.close("open")
            if not told or told[-1].status != "Cancelled":
                raise
            _tell_prefect(told[-1])
        finally:
            APILogHandler().flush()
    return told[-1]


def reproduce(root: Path, model: str, watch: Watch = lambda news: None, source: str | None = None) -> ReproduceResult:
    """Rebuild a registered model and compare; with `source`, from another git revision. Raises RegistryError or StageError."""
    told: list[ReproduceResult] = []
    with terminable(), full_disk_named(root), api(root) as wait:
        from prefect.logging.handlers import APILogHandler

        from flows.reproduction import reproduce_flow

        flow = reproduce_flow(lambda: root, watch, told.append)
        wait()
        state: Any = flow(model=model, source=source, return_state=True)
        APILogHandler().flush()
        if not told:
            state.result()  # raises what ended it
    return told[-1]


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that what it started is ended too."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def full_disk_named(root: Path) -> Iterator[None]:
    """A full disk shows as anything, such as an error 500 of Prefect's server. Raises StageError (infrastructure) that says what it is."""
    try:
        yield
    except Exception as error:
        if isinstance(error, StageError) or shutil.disk_usage(root).free > FULL_BYTES:
            raise
        raise full_disk(f"the disk of {root} is full") from error


def _tell_prefect(result: RunResult) -> None:
    """Prefect calls a flow that was interrupted Crashed; it was cancelled by its user."""
    from uuid import UUID

    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(result.prefect_flow_run_id), Cancelled(message="cancelled by the user"), force=True)
