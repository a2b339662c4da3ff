"""The work folder of a stage key: unfinished work that survives a kill, and finished outs for whoever waited."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.run.filetree import place, remove, write_whole
from components.run.lease import Lease, Owner, is_held

VERSION = 1


@dataclass
class WorkFolder:
    """What one stage key has on disk; hold it through `hold_work`.

    `body` is the stage's own (checkpoints, partial generations). It outlives a kill and is removed when the stage finishes.
    """

    folder: Path
    root: Path
    taken_over: bool = False
    published: list[str] = field(default_factory=list)

    @property
    def body(self) -> Path:
        return self.folder / "body"

    def __truediv__(self, name: str) -> Path:
        return self.body / name

    def publish(self, tmp: Path, out: Path) -> None:
        """Make `tmp`, finished, the stage's out: `out` appears whole or not at all. `tmp` must lie in the work folder's file system."""
        name = out.resolve().relative_to(self.root.resolve()).as_posix()
        kept = self.folder / "finished" / name
        remove(kept)
        kept.parent.mkdir(parents=True, exist_ok=True)
        os.replace(tmp, kept)
        place(kept, out)
        self.published.append(name)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Record that every out is published, then drop the unfinished work."""
        outs = {name: _sizes(self.folder / "finished" / name) for name in self.published}
        record = {"version": VERSION, "time": time.time(), "result": dict(result), "outs": outs}
        write_whole(self.folder / "finished.json", json.dumps(record, indent=1))
        shutil.rmtree(self.body, ignore_errors=True)

    def restore(self) -> dict[str, Any] | None:
        """Put the outs of an earlier finish of this key in place; its result, or None when there is nothing whole to restore."""
        try:
            record = json.loads((self.folder / "finished.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        whole = all(_sizes(self.folder / "finished" / name) == sizes for name, sizes in record["outs"].items())
        if record.get("version") != VERSION or not whole:
            return None
        for name in record["outs"]:
            place(self.folder / "finished" / name, self.root / name)
        result: dict[str, Any] = record["result"]
        return result


@contextmanager
def hold_work(work_root: Path, key: str, root: Path, on_wait: Callable[[Owner], None], on_lost: Callable[[], None]) -> Iterator[WorkFolder]:
    """Own the work folder of `key` while the block runs. A living owner is waited for, a dead one's work is taken over.

    `on_wait` is told whom one waits for; `on_lost` is called from a thread if another machine took the lease.
    """
    folder = work_root / key
    lease = Lease(folder, on_lost)
    lease.acquire(on_wait)
    try:
        work = WorkFolder(folder, root, taken_over=(folder / "body").is_dir())
        work.body.mkdir(exist_ok=True)
        yield work
    finally:
        lease.release()


def discard_work(work_root: Path, older_than_s: float) -> int:
    """Remove work folders that nobody living holds and nobody touched for so long; how many."""
    removed = 0
    for folder in work_root.iterdir() if work_root.is_dir() else ():
        if time.time() - folder.stat().st_mtime > older_than_s and not is_held(folder):
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


def _sizes(path: Path) -> dict[str, int] | None:
    if path.is_dir():
        return {file.relative_to(path).as_posix(): file.stat().st_size for file in sorted(path.rglob("*")) if file.is_file()}
    return {"": path.stat().st_size} if path.is_file() else None
