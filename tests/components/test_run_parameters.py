"""What `--set` would have to say to make one run's parameters another's."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import pytest

from components.params import override, read_mapping
from components.run.parameters import assignments, merged

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "params").glob("*.yaml")))
def test_assignments_make_an_overlay_of_the_base(name: str) -> None:
    base, wanted = read_mapping(ROOT / "params.yaml"), merged(ROOT, name)
    assert reduce(override, assignments(base, wanted), base) == wanted
    assert assignments(wanted, wanted) == []


def test_names_that_a_path_cannot_hold_are_said_whole() -> None:
    have, want = {"mixture": {"a": 1.0, "b": 2.0}}, {"mixture": {"a": 1.0, "b": 2.0, "c.d/story": 0.5}}
    assert assignments(have, want) == ['mixture={"a": 1.0, "b": 2.0, "c.d/story": 0.5}']
    assert reduce(override, assignments(have, want), have) == want
