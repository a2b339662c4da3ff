"""The controller and lambda: from logged values to moves, with nothing else in between."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.objective_params import BalanceParams
from components.progression.balance import Balance
from components.progression.competence import Competence, Progress, judge, standing, value_name
from components.progression_params import ProgressionParams

PARAMS = ProgressionParams.model_validate(
    {
        "mode": "competence",
        "levels": [{"max_images": 1}, {"max_images": 2}, {"max_images": 4}],
        "mastered": {"text_loss": 1.0, "stop_accuracy": 0.9},
        "patience": 2,
        "hysteresis": 0.1,
    }
)
GOOD, FAIR, BAD = (0.8, 0.95), (1.05, 0.85), (2.0, 0.95)


def metrics(*found: tuple[float, float]) -> dict[str, float]:
    """Text loss and stop accuracy of each bucket from the first on."""
    return {
        value_name(bucket, name): value
        for bucket, own in enumerate(found)
        for name, value in zip(("text_loss", "stop_accuracy"), own, strict=True)
    }


def levels(*points: tuple[tuple[float, float], ...]) -> list[int]:
    controller = Competence(PARAMS)
    found = []
    for number, point in enumerate(points, 1):
        controller.judge(10 * number, metrics(*point))
        found.append(controller.progress.level)
    return found


def test_a_level_rises_when_the_present_one_was_mastered_often_enough_in_a_row() -> None:
    assert levels((GOOD,), (GOOD,)) == [0, 1]
    assert levels((GOOD,), (FAIR,), (GOOD,), (GOOD,)) == [0, 0, 0, 1]
    assert levels((GOOD, BAD), (GOOD, BAD), (GOOD, GOOD), (GOOD, GOOD)) == [0, 1, 1, 2], "what is above does not count, and again from 0"
    assert levels(*[(GOOD, GOOD, GOOD)] * 8)[-1] == 2, "there is nothing above the last"


def test_a_level_falls_when_one_below_was_lost_often_enough_and_not_within_the_hysteresis() -> None:
    up = [(GOOD, GOOD)] * 2
    assert levels(*up, (BAD, GOOD), (BAD, GOOD)) == [0, 1, 1, 0]
    assert levels(*up, (BAD, GOOD), (FAIR, GOOD), (BAD, GOOD)) == [0, 1, 1, 1, 1], "not in a row"
    assert levels(*up, *[(FAIR, BAD)] * 6) == [0, 1, *[1] * 6], "missed by less than the hysteresis, and what is not yet learned"
    assert levels(*up, (BAD, GOOD), (BAD, GOOD), (GOOD, GOOD), (GOOD, GOOD)) == [0, 1, 1, 0, 0, 1], "and comes back"
    assert levels(*up, (BAD, GOOD), (GOOD, GOOD), (GOOD, GOOD)) == [0, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({}, "unknown"),
        ({"text_loss": 1.0}, "mastered"),
        ({"text_loss": 1.1}, "between"),
        ({"text_loss": 1.101}, "lost"),
        ({"text_loss": math.nan}, "lost"),
        ({"text_loss": math.inf}, "lost"),
        ({"stop_accuracy": 0.9}, "mastered"),
        ({"stop_accuracy": 0.82}, "between"),
        ({"stop_accuracy": 0.8}, "lost"),
        ({"text_loss": 0.1, "stop_accuracy": 0.8}, "lost"),
        ({"text_loss": 0.1, "image_loss": 9.0}, "mastered"),
    ],
)
def test_standing(found: dict[str, float], told: str) -> None:
    assert standing(2, {f"validation/bucket_2/{name}": value for name, value in found.items()}, PARAMS) == told


def test_a_move_says_what_decided() -> None:
    controller = Competence(PARAMS)
    assert controller.judge(10, metrics(GOOD)) is None
    move = controller.judge(20, metrics(GOOD, BAD))
    assert move is not None
    assert (move.kind, move.step, move.before, move.level) == ("progression_raised", 20, 0, 1)
    assert move.values == {"validation/bucket_0/text_loss": 0.8, "validation/bucket_0/stop_accuracy": 0.95}
    controller.judge(30, metrics(BAD))
    fallen = controller.judge(40, metrics(BAD))
    assert fallen is not None
    assert fallen.kind == "progression_fell_back"
    assert fallen.values["validation/bucket_0/text_loss"] == 2.0


@given(st.lists(st.tuples(*[st.sampled_from([GOOD, FAIR, BAD])] * 3), max_size=30), st.integers(0, 30))
def test_a_controller_that_was_stopped_goes_on_the_same(points: list[tuple[tuple[float, float], ...]], stop: int) -> None:
    whole, first = Competence(PARAMS), Competence(PARAMS)
    expected = [whole.judge(step, metrics(*point)) for step, point in enumerate(points, 1)]
    found = [first.judge(step, metrics(*point)) for step, point in enumerate(points[:stop], 1)]
    second = Competence(PARAMS)
    second.load(json.loads(json.dumps(first.state())))
    if points[:stop]:
        assert second.judge(stop if stop <= len(points) else len(points), metrics(BAD)) is None, "a step is judged once"
    found += [second.judge(step, metrics(*point)) for step, point in enumerate(points[stop:], stop + 1)]
    assert found == expected
    assert second.progress == whole.progress


def test_judging_depends_on_nothing_but_what_it_is_given() -> None:
    progress = Progress(1, 1, 0, 50)
    assert judge(progress, 60, metrics(GOOD, GOOD), PARAMS) == judge(progress, 60, metrics(GOOD, GOOD), PARAMS)
    assert progress == Progress(1, 1, 0, 50)


@pytest.mark.parametrize("differs", [{"version": 2}, {"level": 3}, {"level": -1}, {"level": "1"}, {"speed": 1}])
def test_the_state_of_another_controller_is_refused(differs: dict[str, object]) -> None:
    state = Competence(PARAMS).state()
    Competence(PARAMS).load(state)
    with pytest.raises(ValueError, match="progression"):
        Competence(PARAMS).load(state | differs)
    with pytest.raises(ValueError, match="progression"):
        Competence(PARAMS).load({})


BALANCED = BalanceParams(mode="losses", ratio=1.0, bound=4.0, decay=0.5)


def test_lambda_makes_the_weighted_losses_even_and_keeps_its_bounds() -> None:
    balance = Balance(10.0, BALANCED)
    assert balance.image_weight == 10.0, "nothing is known yet"
    balance.add(2.0, 0.1, 100, 5)
    assert balance.image_weight == pytest.approx(20.0)
    balance.add(2.0, 0.001, 100, 5)
    assert balance.image_weight == pytest.approx(2.0 / 0.0505)
    for _ in range(20):
        balance.add(2.0, 0.0, 100, 5)
    assert balance.image_weight == 40.0
    for _ in range(20):
        balance.add(0.001, 9.0, 100, 5)
    assert balance.image_weight == 2.5


def test_a_step_without_pictures_or_not_finite_says_nothing_about_them() -> None:
    one, two = Balance(10.0, BALANCED), Balance(10.0, BALANCED)
    for balance in (one, two):
        balance.add(3.0, 0.2, 10, 10)
    two.add(3.0, 0.0, 10, 0)
    two.add(math.nan, math.inf, 10, 10)
    assert one.image_weight == two.image_weight


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), max_size=20), st.integers(0, 20), st.integers(1, 3))
def test_a_balance_that_was_stopped_goes_on_the_same(losses: list[tuple[float, float]], stop: int, micro_batches: int) -> None:
    whole, first = Balance(10.0, BALANCED, micro_batches), Balance(10.0, BALANCED, micro_batches)

    def run(balance: Balance, steps: list[tuple[float, float]]) -> list[float]:
        found = []
        for text, image in steps:
            for _ in range(micro_batches):
                found.append(balance.image_weight)
                balance.add(text / micro_batches, image / micro_batches, 1, 1)
        return found

    expected = run(whole, losses)
    found = run(first, losses[:stop])
    second = Balance(10.0, BALANCED, micro_batches)
    second.load(json.loads(json.dumps(first.state())))
    assert found + run(second, losses[stop:]) == expected
    assert all(len(set(expected[start : start + micro_batches])) == 1 for start in range(0, len(expected), micro_batches))


def test_the_lambda_of_every_step_is_told_once_also_after_a_stop() -> None:
    balance = Balance(10.0, BALANCED, micro_batches=2)
    for text in (2.0, 2.0, 2.0):
        balance.add(text, 0.1, 1, 1)
        balance.add(text, 0.1, 1, 1)
    resumed = Balance(10.0, BALANCED, micro_batches=2)
    resumed.load(balance.state())
    assert resumed.each_step(3) == balance.each_step(3) == {"image_loss_weight": pytest.approx([10.0, 20.0, 20.0])}
    assert balance.each_step(3) == {"image_loss_weight": []}


def test_without_balancing_lambda_is_the_configured_one() -> None:
    balance = Balance(10.0, BalanceParams())
    balance.add(3.0, 0.2, 10, 10)
    assert balance.image_weight == 10.0
    with pytest.raises(ValueError, match="balance"):
        balance.load({"version": 1})
