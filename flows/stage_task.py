"""One step of a run as a Prefect task: events become progress and pictures, the end a named state, infrastructure failures retries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run
from prefect.states import Completed, Failed

from components.run.events import Event
from components.run.failures import Restart, StageError, explain
from components.run.stage import StageOutcome
from flows.options import StageProgress, Watch
from flows.shown import StageView

RETRIES = 2
RETRY_DELAYS_S = (5.0, 30.0)
Child = Callable[[Callable[[Event], None]], StageOutcome]
Value = TypeVar("Value")


def run_stage(name: str, child: Child, watch: Watch, retry_delays_s: tuple[float, ...] = RETRY_DELAYS_S) -> None:
    """Run `child` (a process that tells its events) as the task `name`. Raises the StageError that it ended with.

    A failure of a class that may be restarted is tried again, any other ends the task at once. The task's final state is Cached,
    Completed, or Failed under the name of the failure class.
    """

    def run() -> tuple[State[None], str]:
        view = StageView(name, watch, get_run_logger())
        try:
            outcome = child(view)
        finally:
            view.close()
        summary = str((outcome.result or {}).get("summary", ""))
        state: State[None] = (
            Completed(name="Cached", message="nothing that it depends on has changed")
            if outcome.status == "Cached"
            else Completed(message=summary)
        )
        return state, summary

    state, summary = _attempt(name, run, watch, retry_delays_s)
    watch(StageProgress(name, "Cached" if state.name == "Cached" else "Completed", message=summary))


def run_step(name: str, action: Callable[[], Value], watch: Watch, retry_delays_s: tuple[float, ...] = RETRY_DELAYS_S) -> Value:
    """Run a short step of the flow's own process as the task `name`; its value. Raises StageError."""
    _, value = _attempt(name, lambda: (Completed(), action()), watch, retry_delays_s)
    watch(StageProgress(name, "Completed"))
    return value


def _attempt(
    name: str, run: Callable[[], tuple[State[None], Value]], watch: Watch, retry_delays_s: tuple[float, ...]
) -> tuple[State[None], Value]:
    ended: list[tuple[State[None], Value]] = []
    problems: list[StageError] = []

    @task(
        name=name,
        task_run_name=name,
        retries=RETRIES,
        retry_delay_seconds=list(retry_delays_s),
        retry_condition_fn=_may_retry,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def attempt() -> State[None]:
        watch(StageProgress(name, "Running"))
        try:
            ended.append(run())
        except Exception as error:
            problem = explain(error)
            if _restartable(problem) and task_run.run_count <= RETRIES:
                watch(StageProgress(name, "Running", message=f"{problem.line()}; trying again"))
                raise problem from error
            problems.append(problem)
            return Failed(name=str(problem.failure), message=problem.line())
        return ended[-1][0]

    attempt(return_state=True)
    if problems:
        watch(StageProgress(name, "Failed", message=problems[-1].line()))
        raise problems[-1]
    return ended[-1]


def _may_retry(task: Any, run: TaskRun, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageError) and _restartable(error)


def _restartable(problem: StageError) -> bool:
    return problem.failure.restart in (Restart.FREE, Restart.BUDGETED)
