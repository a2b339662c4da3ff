"""Which checkpoint of an earlier run a training goes on from, as it stands in params.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_FORM = re.compile(r"(?P<run>[^@#\s]+)@(?P<step>[1-9]\d*)#sha256:(?P<digest>[0-9a-f]{64})")


@dataclass(frozen=True)
class Continuation:
    """The checkpoint after `step` of a run; `digest` is the sha256 of its manifest, which names that of every file."""

    run_id: str
    step: int
    digest: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `RUN@STEP#sha256:DIGEST`. Raises ValueError saying what is expected."""
        if (found := _FORM.fullmatch(text)) is None:
            raise ValueError(f"{text!r}: expected RUN@STEP#sha256:DIGEST, as `mmfs run --continue RUN` writes it")
        return cls(found["run"], int(found["step"]), found["digest"])

    def __str__(self) -> str:
        return f"{self.run_id}@{self.step}#sha256:{self.digest}"
