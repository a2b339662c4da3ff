"""The task sets as seeds of the fuzz test: a sound corpus of each, by format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from task_set import TaskSet, corpus
from task_sets import SETS

from components.params import CorpusParams

UNSTATED = {"flickr30k", "flintstonessv", "ocrvqa"}
"""Formats in which a record that says it belongs to another split, or begins no story, is as good as none."""


def _seed(one: TaskSet) -> Callable[[Path], CorpusParams]:
    def written(folder: Path) -> CorpusParams:
        one.write(folder)
        return corpus(one)

    return written


TASK_SEEDS = {name: _seed(one) for name, one in SETS.items()}
