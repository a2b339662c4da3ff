"""What is kept of one video between runs: its frames (cut.json), their texts (told.json) and what both took (costs.json)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from components.data.curation.record import Judged, Round
from components.run.filetree import write_whole

VERSION = 1
_ATTEMPTS = 3
Model = TypeVar("Model", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CutFrame(_Frozen):
    """A frame that stays: `file` below the unit's folder, and what was measured."""

    file: str
    sha256: str
    time_s: float
    filters: dict[str, float]


class Cut(_Frozen):
    """The windows of a video after the filters. `rejected` says why there are none of a file that is no usable video."""

    version: int = VERSION
    key: str
    video: str
    sha256: str
    rejected: str = ""
    reading: dict[str, float] = {}
    windows: dict[str, tuple[CutFrame, ...]] = {}
    dropped: dict[str, int] = {}
    tool_versions: dict[str, str] = {}


class Sample(_Frozen):
    """What was told of a window: `kept` names its frames after the verdicts. `fell_by` and `problem` say why there are no texts."""

    kept: tuple[int, ...]
    whole: str | None = None
    frames: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    rounds: tuple[Round, ...] = ()
    judged: Judged | None = None
    alignment: float | None = None
    fell_by: str = ""
    problem: str = ""
    unread_verdicts: int = 0


class ToldVideo(_Frozen):
    """The texts of a video's windows, and who wrote them. `cut_key` is of the frames that they tell."""

    version: int = VERSION
    key: str
    cut_key: str
    captioner: str
    captioner_digest: str
    converses: bool
    samples: dict[str, Sample]


class Cost(_Frozen):
    """Seconds of reading and filtering a video, and seconds and price of each window's texts."""

    cut_seconds: float = 0.0
    samples: dict[str, tuple[float, float | None]] = {}


class Unit:
    """The folder of one video, by its content."""

    def __init__(self, root: Path, sha256: str) -> None:
        self.name = sha256[:16]
        self.folder = root / self.name
        self._attempts = root / f"{self.name}.attempts"

    def cut(self, key: str) -> Cut | None:
        """The frames, where they were made under this key."""
        found = _read(Cut, self.folder / "cut.json")
        return found if found is not None and found.key == key else None

    def told(self, cut_key: str) -> ToldVideo | None:
        """The texts of these frames, whoever wrote them."""
        found = _read(ToldVideo, self.folder / "told.json")
        return found if found is not None and found.cut_key == cut_key else None

    def cost(self) -> Cost:
        """What it took so far."""
        return _read(Cost, self.folder / "costs.json") or Cost()

    def write(self, cost: Cost, made: Cut | ToldVideo) -> None:
        """Keep a result, its cost first: the result stands for both."""
        _write(self.folder / "costs.json", cost)
        _write(self.folder / ("cut.json" if isinstance(made, Cut) else "told.json"), made)

    def begin(self) -> bool:
        """Note that the video is about to be read. False where the process has died over it time after time."""
        count = int(self._attempts.read_text() or 0) if self._attempts.exists() else 0
        if count >= _ATTEMPTS:
            return False
        write_whole(self._attempts, str(count + 1))
        return True

    def end(self) -> None:
        """The process outlived the video."""
        self._attempts.unlink(missing_ok=True)


def key_of(*values: Any) -> str:
    """The digest of all that a result follows from."""
    return hashlib.sha256(json.dumps([VERSION, *values], sort_keys=True).encode()).hexdigest()


def _read(kind: type[Model], path: Path) -> Model | None:
    """What is there; None for nothing, for another version and for what is broken: it is made again."""
    try:
        found = kind.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return found if getattr(found, "version", VERSION) == VERSION else None


def _write(path: Path, value: BaseModel) -> None:
    write_whole(path, value.model_dump_json(indent=1) + "\n")
