"""Ranks started again and again until the job is done: one mechanism for preemption, lost machines, hung ranks and rollbacks."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components.checkpoints.committer import Committer
from components.checkpoints.folder import CheckpointFolder
from components.launch.local import DeadRank, RankGroup
from components.run.events import EventWriter
from components.run.failures import FailureClass, Restart, StageError, from_exit_code
from components.run.filetree import write_whole
from components.tracking.spool import read_points
from components.tracking.stage_run import StageRun
from components.training.checkpoints.commits import committer_of
from components.training.checkpoints.resume import last_good, read_cursor, step_of
from components.training.forward import Forwarder
from components.training.guards.bad_steps import BadSteps
from components.training.guards.journal import Journal, read_journal
from components.training.guards.restarts import Budget, KilledRank, restart_of
from components.training.guards.rollbacks import Decisions, decide, good_until, read_decisions
from components.training.guards.watchdog import Watchdog, clear_pulses
from components.training.job import Job, forget_failures, read_failure, write_job
from components.training.telemetry.sampling import Samples

STACKS_FOLDER = "stacks"
_POLL_S = 0.1
_STACKS_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How patient a machine's supervisor is; nothing of it decides the weights."""

    restarts: int = 3
    delay_s: float = 2.0
    hang_s: float = 1800.0


class Attempts:
    """One training from its first start to its end, or to a failure that nobody here can mend."""

    def __init__(
        self,
        plan: Callable[[], Job],
        launch: Callable[[Job], RankGroup],
        tracking: StageRun,
        events: EventWriter,
        limits: Limits = Limits(),
        commit: Callable[[Job], Committer] = committer_of,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`plan` makes the job from what lies in the work folder; `launch` starts its ranks, whose checkpoints `commit` commits."""
        self._plan, self._launch = plan, launch
        self._tracking, self._events = tracking, events
        self._limits, self._commit, self._sleep = limits, commit, sleep

    def run(self) -> None:
        """Train. Raises StageError in the class of the failure that ended it; preempted when this process was told to stop."""
        job = self._settled()
        journal = Journal(job.journal)
        samples = Samples(job, self._tracking, self._events)
        forwarder = Forwarder(job.points, job.journal, job.train.steps, self._tracking, self._events, look=samples.look)
        budget = Budget(self._limits.restarts, self._limits.delay_s, reached=step_of(job.resume))
        try:
            while (error := self._attempt(job, forwarder)) is not None:
                restart = restart_of(error)
                if restart is Restart.NEVER:
                    raise error
                if isinstance(error, BadSteps):
                    _take_back(error, job, journal)
                job = self._settled()
                if restart is not Restart.ROLL_BACK:
                    budget = _grant(error, restart is Restart.FREE, budget, step_of(job.resume), journal)
                forwarder.again()
                forwarder.forward()
                self._sleep(0.0 if restart is Restart.ROLL_BACK else budget.pause_s)
        except StageError as error:
            if error.failure is FailureClass.PREEMPTED:
                told = read_failure(job.work)
                saved = told is not None and told.failure is FailureClass.PREEMPTED
                message = told.message if told and saved else "the ranks were ended before they had saved; the last checkpoint stands"
                journal.add("preempted", max(CheckpointFolder(job.checkpoints).steps(), default=0), saved=saved, message=message)
            raise
        finally:
            samples.close()
            forwarder.close()

    def _settled(self) -> Job:
        """The job, once what was decided about bad steps is carried out; one that died in the middle of that left the rest to this one."""
        job = self._plan()
        decisions = read_decisions(job.work)
        if decisions.settled < len(decisions.rollbacks):
            self._carry_out(decisions, job)
            job = self._plan()
        return job

    def _carry_out(self, decisions: Decisions, job: Job) -> None:
        """Every part of it may be done twice."""
        journal = Journal(job.journal)
        number = len(decisions.rollbacks)
        latest = decisions.rollbacks[-1]
        limit = good_until(decisions.rollbacks, decisions.settled)
        assert limit is not None
        CheckpointFolder(job.checkpoints).withdraw_after(limit)
        points = [point for point in read_points(job.points)[0] if point["step"] <= limit]
        write_whole(job.points, "".join(json.dumps(point) + "\n" for point in points))
        self._tracking.rewind(limit, f"rollback {number}")
        if not any(entry.kind == "rollback" and entry.values["number"] == number for entry in read_journal(job.journal)[0]):
            journal.add(
                "rollback",
                latest.last,
                number=number,
                cause=str(latest.cause),
                to_step=step_of(job.resume),
                first_left_out=latest.begin,
                last_left_out=latest.last,
                rows_left_out=latest.draws[1] - latest.draws[0],
                learning_rate_factor=job.train.guard.learning_rate_factor,
            )
        _log.warning("%s: steps %d to %d are left out; going on after step %d", job.stage, latest.begin, latest.last, step_of(job.resume))
        decisions.model_copy(update={"settled": number}).write(job.work)

    def _attempt(self, job: Job, forwarder: Forwarder) -> StageError | None:
        """Run the ranks to their end; why they failed, or None."""
        forget_failures(job.work)
        write_job(job)
        watchdog = Watchdog(clear_pulses(job.work, job.train.ranks), self._limits.hang_s)
        ended, dead = False, None
        with self._commit(job) as committer, self._launch(job) as ranks:
            while not ended:
                time.sleep(_POLL_S)
                ended, dead = ranks.poll()
                forwarder.forward()
                if not ended and watchdog.hung():
                    return self._hung(ranks, watchdog, job)
                if not ended and committer.problem is not None:
                    return committer.problem
        return None if dead is None else failure_of(dead, job.work)

    def _hung(self, ranks: RankGroup, watchdog: Watchdog, job: Job) -> StageError:
        """Keep every rank's stacks, then end them."""
        number = sum(entry.kind == "hang" for entry in read_journal(job.journal)[0]) + 1
        folder = job.work / STACKS_FOLDER / f"hang-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        for rank, text in enumerate(ranks.asked(signal.SIGUSR1, _STACKS_S)):
            (folder / f"rank-{rank}.txt").write_text(text, encoding="utf-8")
        ranks.stop(grace_s=0)
        where = watchdog.told()
        Journal(job.journal).add("hang", step_of(job.resume), number=number, where=where, hang_s=self._limits.hang_s, stacks=folder.name)
        self._tracking.log_artifact(folder, STACKS_FOLDER)
        message = f"no rank has moved for {self._limits.hang_s:g} s: {where}"
        return StageError(FailureClass.INFRASTRUCTURE, message, f"their stacks are in {folder}; MMFS_HANG_S allows longer phases")


def _take_back(bad: BadSteps, job: Job, journal: Journal) -> None:
    """Decide on a rollback, in writing. Raises StageError when there were enough of them."""
    journal.add("bad_steps", bad.last, cause=str(bad.failure), first=bad.first, last=bad.last, message=bad.message)
    decisions = read_decisions(job.work)
    guard = job.train.guard
    before, _ = last_good(CheckpointFolder(job.checkpoints), decisions.rollbacks, max(0, bad.first - 1 - guard.margin_steps))
    cursor = read_cursor(before.path if before else None)
    rollback = decide(bad, cursor, decisions.rollbacks, job.train.rows_per_step, guard)
    decisions.model_copy(update={"rollbacks": (*decisions.rollbacks, rollback)}).write(job.work)


def _grant(error: StageError, free: bool, budget: Budget, reached: int, journal: Journal) -> Budget:
    """The budget after a restart for this failure. Raises the failure when there is none left."""
    told = {"class": str(error.failure), "message": error.message}
    left = budget.after(reached, free)
    if left is None:
        journal.add("gave_up", reached, restarts=budget.used, **told)
        message = f"{error.message} ({budget.used} restarts without a checkpoint in between did not help)" if budget.used else error.message
        raise StageError(error.failure, message, error.fix)
    journal.add("restart", reached, number=left.used, free=free, pause_s=left.pause_s, **told)
    _log.warning("%s; starting the ranks again from step %d in %g s", error.line(), reached, left.pause_s)
    return left


def failure_of(dead: DeadRank, work: Path) -> StageError:
    """Why the ranks ended: what one of them said, unless a signal ended one and the others only tell that they miss it."""
    told = read_failure(work)
    if told is not None and not (dead.status < 0 and told.failure is FailureClass.INFRASTRUCTURE):
        return told
    message = f"rank {dead.rank} ended with status {dead.status}: {dead.last_words(1)}"
    kind = KilledRank if dead.status < 0 else StageError
    return kind(from_exit_code(dead.status), message, f"its log is {dead.log}; run the same command to go on from the last checkpoint")
