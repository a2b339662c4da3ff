"""One stage as a Prefect task: its events become progress and pictures, its end a state with a name, its infrastructure failures retries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run
from prefect.states import Completed, Failed

from components.run.events import Event
from components.run.failures import Restart, StageError, explain
from components.run.stage import StageEnd
from flows.options import StageOutcome, StageProgress, Watch
from flows.shown import StageView

RETRIES = 2
RETRY_DELAYS_S = [5.0, 30.0]
Child = Callable[[Callable[[Event], None]], StageEnd]


def run_stage(stage: str, child: Child, watch: Watch, retry_delays_s: list[float] | None = None) -> StageOutcome:
    """Run `child` (the stage's process, telling its events) as the task `stage`; how it ended.

    A StageError of a class that may be restarted for free or within a budget is tried again; any other ends the task at once. The task's
    final state is Cached, Completed, or Failed under the name of the failure class.
    """
    ended: list[StageOutcome] = []

    @task(
        name=stage,
        task_run_name=stage,
        retries=RETRIES,
        retry_delay_seconds=retry_delays_s or RETRY_DELAYS_S,
        retry_condition_fn=_may_retry,
        cache_policy=NO_CACHE,
        persist_result=False,
        viz_return_value=None,
    )
    def run() -> Any:
        watch(StageProgress(stage, "Running"))
        view = StageView(stage, watch)
        try:
            end = child(view)
        except Exception as error:
            problem = explain(error)
            if _restartable(problem) and task_run.run_count <= RETRIES:
                watch(StageProgress(stage, "Running", message=f"{problem.line()}; trying again"))
                raise problem from None
            ended.append(StageOutcome(stage, "Failed", 0.0, problem.failure, problem.message, problem.fix))
            return Failed(name=str(problem.failure), message=problem.line())
        finally:
            view.close()
        ended.append(StageOutcome(stage, "Cached" if end.cached else "Completed", end.seconds))
        return Completed(name="Cached", message="the outs of an earlier run of the same stage key") if end.cached else Completed(message=end.summary)

    run(return_state=True)
    outcome = ended[-1]
    watch(StageProgress(stage, outcome.state, message=outcome.message))
    return outcome


def _may_retry(task: Any, run: TaskRun, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageError) and _restartable(error)


def _restartable(problem: StageError) -> bool:
    return problem.failure.restart in (Restart.FREE, Restart.BUDGETED)
