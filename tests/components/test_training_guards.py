"""Arithmetic of the guards: what a spike is, which rows are left out, when ranks are started again, when they hang."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from training_world import train_params

from components.data.cursor import Cursor
from components.guard_params import GuardParams
from components.run.failures import FailureClass, Restart, StageError
from components.training.guards.bad_steps import BadSteps
from components.training.guards.guard import Guard
from components.training.guards.restarts import Budget, KilledRank, restart_of
from components.training.guards.rollbacks import (
    Decisions,
    Rollback,
    decide,
    good_until,
    learning_rate_factor,
    leave_out,
    made_under,
    read_decisions,
)
from components.training.guards.spikes import Series, is_spike, observe, score
from components.training.guards.watchdog import Beat, Pulse, Watchdog, clear_pulses, pulse_file
from components.training.objective import Sums

GUARD = GuardParams(spike_window=32, spike_min_steps=16, spike_patience=3, spike_threshold=10.0)
QUICK = settings(max_examples=50, deadline=None)
LOSSES = st.floats(0.5, 2.0)


def watch(values: list[float], series: Series = Series()) -> tuple[Series, int | None]:
    """The series after all values, and after how many it was a spike."""
    for number, value in enumerate(values, 1):
        series = observe(series, value, GUARD)
        if is_spike(series, GUARD):
            return series, number
    return series, None


@given(st.lists(LOSSES, min_size=16, max_size=60), st.integers(1, 5), st.floats(1e3, 1e9))
@QUICK
def test_a_jump_is_a_spike_once_it_has_lasted(calm: list[float], length: int, high: float) -> None:
    series, spike = watch(calm)
    assert spike is None
    assert len(series.line) == min(len(calm), 32)
    series, spike = watch([high] * length, series)
    assert spike == (3 if length >= 3 else None)
    assert len(series.streak) == min(length, 3)
    assert high not in series.line, "what is out of line is no measure for what follows"


@pytest.mark.parametrize("seed", range(20))
def test_pictures_among_texts_known_by_heart_are_no_spike(seed: int) -> None:
    """One step in four has a picture, as in small batches: three of them in a row happen, and end nothing."""
    random = Random(seed)
    losses = [random.uniform(0.3, 2.5) if random.random() < 0.25 else random.uniform(0, 0.01) for _ in range(400)]
    series, spike = watch(losses)
    assert spike is None
    assert watch([40.0] * 3, series)[1] == 3


@given(st.lists(LOSSES, min_size=20, max_size=20), st.floats(1e-3, 1e3))
@QUICK
def test_the_unit_of_a_loss_does_not_matter(values: list[float], unit: float) -> None:
    *line, value = values
    assert math.isclose(score(value * unit, [one * unit for one in line]), score(value, line), rel_tol=1e-6, abs_tol=1e-6)


@given(st.lists(st.one_of(LOSSES, st.just(1e6)), max_size=80), st.data())
@QUICK
def test_a_checkpoint_anywhere_changes_nothing(values: list[float], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(values)))
    whole, spike = watch(values)
    if spike is not None and cut >= spike:
        return
    first, _ = watch(values[:cut])
    resumed, later = watch(values[cut:], Series.of(json.loads(json.dumps(first.state()))))
    assert (resumed, later) == (whole, None if spike is None else spike - cut)


def test_what_falls_or_returns_or_is_flat_is_no_spike() -> None:
    flat, spike = watch([2.0] * 40)
    assert spike is None
    assert watch([1e-9] * 10, flat)[1] is None, "down is where losses go"
    assert watch([2.1] * 10, flat)[1] is None, "five per cent of a flat line are no jump"
    series, spike = watch([9.0, 9.0, 2.0], flat)
    assert (spike, series.streak, series.line[-3:]) == (None, (), (9.0, 9.0, 2.0)), "it was in line after all"
    assert watch([1e9] * 10, Series((0.0,) * 16))[1] == 3
    off = GUARD.model_copy(update={"spike_threshold": 0.0})
    assert observe(Series((1.0,) * 40), 1e9, off) == Series((1.0,) * 40)


WINDOWS = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 30)), max_size=6)


@given(WINDOWS, st.integers(0, 100))
@QUICK
def test_rows_are_the_draws_that_are_not_left_out(windows: list[tuple[int, int]], row: int) -> None:
    cursor = Cursor()
    for first, count in windows:
        cursor = cursor.leaving_out(first, first + count)
        assert cursor.leaving_out(first, first + count) == cursor, "the same again changes nothing"
    out = {draw for first, count in windows for draw in range(first, first + count)}
    left = [draw for draw in range(500) if draw not in out]
    assert [cursor.draw(number) for number in range(row, row + 5)] == left[row : row + 5]
    assert Cursor.from_dict(json.loads(json.dumps(cursor.to_dict()))) == cursor


def test_what_was_trained_on_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="before the cursor"):
        Cursor(2, 16).leaving_out(15, 17)
    assert Cursor(2, 16).leaving_out(16, 24).draw(16) == 24


def bad(first: int, last: int, failure: FailureClass = FailureClass.SPIKE) -> BadSteps:
    return BadSteps(failure, "bad", "look", first, last)


@given(st.integers(0, 9), st.integers(10, 14), st.integers(0, 3), st.integers(0, 3))
@QUICK
def test_a_decision_does_not_depend_on_the_checkpoint_gone_back_to(checkpoint: int, first: int, length: int, margin: int) -> None:
    guard = GuardParams(margin_steps=margin)
    checkpoint = min(checkpoint, first - margin - 1)
    earlier = [Rollback(cause=FailureClass.SPIKE, first=11, last=11, begin=11, draws=(80, 88))] if first > 11 + margin else []
    made = decide(bad(first, first + length), Cursor(checkpoint, 8 * checkpoint), earlier, 8, guard)
    assert made == decide(bad(first, first + length), Cursor(), earlier, 8, guard)
    assert (made.begin, made.good_until) == (first - margin, first - margin - 1)
    shift = 8 if earlier else 0
    assert made.draws == (8 * (made.begin - 1) + shift, 8 * made.last + shift)
    after = leave_out(Cursor(checkpoint, 8 * checkpoint), [*earlier, made])
    assert after.draw(8 * (made.begin - 1)) == made.draws[1], "the first bad step gets the rows after the window"


def test_enough_rollbacks_are_a_failure() -> None:
    one = decide(bad(5, 6), Cursor(), [], 8, GuardParams(max_rollbacks=1))
    with pytest.raises(StageError, match=r"bad \(after 1 rollbacks\)") as error:
        decide(bad(9, 9, FailureClass.NON_FINITE), Cursor(), [one], 8, GuardParams(max_rollbacks=1))
    assert error.value.failure is FailureClass.NON_FINITE
    assert "guard.max_rollbacks" in error.value.fix


def test_a_checkpoint_is_good_up_to_the_steps_rolled_back_since() -> None:
    rollbacks = [Rollback(cause=FailureClass.SPIKE, first=n, last=n + 2, begin=n, draws=(8 * n, 8 * n + 24)) for n in (20, 12)]
    assert [good_until(rollbacks, count) for count in range(3)] == [11, 11, None]
    assert good_until(rollbacks[:1]) == 19
    assert [made_under({}), made_under({"guard": {"rollbacks": 2}})] == [0, 2]
    guard = GuardParams(learning_rate_factor=0.5, cool_down_steps=10)
    assert [learning_rate_factor(rollbacks, guard, step) for step in (11, 12, 20, 21, 22, 29, 30)] == [1, 0.5, 0.25, 0.25, 0.5, 0.5, 1]


def test_decisions_are_read_back_or_refused(tmp_path: Path) -> None:
    assert read_decisions(tmp_path) == Decisions()
    made = Decisions(rollbacks=(decide(bad(5, 6), Cursor(), [], 8, GuardParams()),))
    made.write(tmp_path)
    assert read_decisions(tmp_path) == made
    (tmp_path / "rollbacks.json").write_text('{"version": 2}')
    with pytest.raises(StageError, match="says which data were left out"):
        read_decisions(tmp_path)


def test_the_budget_is_refilled_by_progress() -> None:
    budget: Budget | None = Budget(2, 3.0)
    pauses = []
    for reached in (0, 0, 10, 10):
        assert budget is not None
        budget = budget.after(reached, free=False)
        assert budget is not None
        pauses.append(budget.pause_s)
    assert pauses == [3.0, 6.0, 3.0, 6.0]
    assert budget is not None
    assert budget.after(10, free=False) is None, "no checkpoint since"
    assert budget.after(10, free=True) == budget
    assert budget.after(11, free=False) is not None
    assert Budget(100, 3.0, used=50).pause_s == 300.0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KilledRank(FailureClass.OUT_OF_MEMORY, "status -9"), Restart.BUDGETED),
        (StageError(FailureClass.OUT_OF_MEMORY, "said so itself"), Restart.NEVER),
        (StageError(FailureClass.BAD_DATA, "a shard is gone"), Restart.NEVER),
        (KilledRank(FailureClass.BUG, "status -11"), Restart.BUDGETED),
        (StageError(FailureClass.BUG, "status 1"), Restart.NEVER),
        (KilledRank(FailureClass.PREEMPTED, "status -15"), Restart.FREE),
        (StageError(FailureClass.INFRASTRUCTURE, "lost the other ranks"), Restart.BUDGETED),
        (bad(5, 7), Restart.ROLL_BACK),
        (StageError(FailureClass.SPIKE, "of unknown steps"), Restart.NEVER),
    ],
)
def test_who_is_started_again(error: StageError, expected: Restart) -> None:
    assert restart_of(error) is expected


def test_ranks_hang_when_no_counter_moves_whatever_the_clocks_say(tmp_path: Path) -> None:
    now, paths = [0.0], clear_pulses(tmp_path, 2)
    watchdog = Watchdog(paths, 10.0, lambda: now[0])

    def after(seconds: float) -> bool:
        now[0] += seconds
        return watchdog.hung()

    pulses = [Pulse(path) for path in paths]
    pulses[0].beat(1, "forward")
    assert not after(4)
    assert not after(4)
    pulses[1].beat(1, "backward of a long name that does not fit into the sixty-four bytes of a beat")
    assert not after(4), "one of them has moved"
    for path in paths:  # a clock that jumps to and fro leaves its mark on the files, and on nothing else
        path.touch()
    assert not after(4)
    assert not after(1_000_000), "the whole machine was asleep"
    assert after(1)
    assert watchdog.told().startswith("rank 0 in forward of step 1, rank 1 in backward of a long")
    pulses[1].beat(1, "optimizer")
    assert not after(4)
    assert Beat.read(pulse_file(tmp_path, 1)) == Beat(2, 1, "optimizer")
    assert not Watchdog(paths, 0.0, lambda: now[0]).hung()
    assert clear_pulses(tmp_path, 2) == paths
    assert Beat.read(paths[0]) == Beat()


def first_bad(guard: Guard, norms: list[float], losses: list[float]) -> int | None:
    """Let a guard see some steps; the first of those that it ends with."""
    trainer = cast(Trainer, SimpleNamespace(global_step=0))
    module = cast(LightningModule, None)
    guard.on_train_start(trainer, module)
    for number, (norm, loss) in enumerate(zip(norms, losses, strict=True), 1):
        NORM[0] = norm
        guard.add(Sums(text_loss=loss, image_loss=0.0, step_text=1, step_images=0, tokens=1, images=0, stop=0))
        guard.on_train_batch_end(trainer, module, None, None, 0)  # between two micro-batches
        trainer.global_step = number  # type: ignore[misc]
        try:
            guard.on_train_batch_end(trainer, module, None, None, 1)
        except BadSteps as bad:
            return bad.first if bad.last == number else None
    return None


NORM = [0.0]


@pytest.mark.parametrize(("precision", "ends"), [("32-true", 2), ("bf16-mixed", 2), ("16-mixed", 6)])
def test_only_a_loss_scaler_may_leave_steps_out_and_not_for_ever(precision: str, ends: int) -> None:
    train = train_params(precision=precision, guard={"max_skipped_steps": 2})
    guard = Guard(train, 1.0, 1.0, lambda: NORM[0])
    assert first_bad(guard, [1, math.inf, 1, math.nan, math.inf, math.inf, 1], [1.0] * 7) == ends


def test_the_gradient_norm_is_judged_where_that_is_asked_for() -> None:
    norms, losses = [1.0] * 20 + [1e6] * 3, [1.0] * 23
    values = GUARD.model_dump()
    assert first_bad(Guard(train_params(guard=values), 1.0, 1.0, lambda: NORM[0]), norms, losses) is None
    watching = Guard(train_params(guard=values | {"watch_gradient_norm": True}), 1.0, 1.0, lambda: NORM[0])
    assert not watching.suspicious
    assert first_bad(watching, norms, losses) == 21
    assert watching.suspicious
    resumed = Guard(train_params(guard=values), 1.0, 1.0, lambda: NORM[0], rollbacks=1)
    resumed.load(json.loads(json.dumps(watching.state())))
    assert resumed.state() == watching.state() | {"rollbacks": 1}
    resumed.load({})
    assert not resumed.suspicious
