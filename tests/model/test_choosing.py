"""A token per row: greedy, drawn, penalised, never too early at the end."""

from __future__ import annotations

import pytest
import torch

from model.choosing import Choosing, choose

SCORES = torch.tensor([[0.0, 3.0, 2.9, 1.0]])
END = 1


def drawn(how: Choosing, times: int = 200) -> set[int]:
    return {choose(SCORES, [[]], [0], (END,), how, [torch.Generator().manual_seed(seed)])[0] for seed in range(times)}


def test_greedy_takes_the_likeliest() -> None:
    assert choose(SCORES.repeat(2, 1), [[], [2]], [0, 1], (END,), Choosing(), [None, None]) == [1, 1]


def test_a_text_does_not_end_too_early() -> None:
    how = Choosing(min_new_tokens=2)
    assert choose(SCORES.repeat(2, 1), [[2, 2, 2], [2, 2, 2]], [1, 2], (END,), how, [None, None]) == [2, 1]


def test_said_tokens_become_less_likely() -> None:
    assert choose(SCORES, [[1, 2]], [2], (END,), Choosing(repetition_penalty=4.0), [None]) == [3]


def test_the_likeliest_of_a_mass_are_drawn() -> None:
    assert drawn(Choosing(temperature=1.0)) == {0, 1, 2, 3}
    assert drawn(Choosing(temperature=1.0, top_p=0.8)) == {1, 2}
    assert drawn(Choosing(temperature=0.01)) == {1}


def test_the_generator_decides() -> None:
    how = Choosing(temperature=1.0)
    once, again = (choose(SCORES, [[]], [0], (END,), how, [torch.Generator().manual_seed(7)]) for _ in range(2))
    assert once == again


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"repetition_penalty": 0}, "repetition"),
        ({"min_new_tokens": -1}, "min"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Choosing(**values)  # type: ignore[arg-type]
