"""All checkpoints of one training in a folder. Only a committed one whose every byte is as its manifest says is ever resumed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.checkpoints.files import Files
from components.checkpoints.manifest import (
    COMMIT,
    COMPLETE,
    MANIFEST,
    VERSION,
    Checkpoint,
    CheckpointError,
    describe,
    manifest_bytes,
    marker,
    read_manifest,
    verify,
)
from components.checkpoints.retention import Retention, kept
from components.run.lease import boot_id

SENDING = "sending"
"""File that is there while the newest checkpoint is copied to a second place."""
PINS = "pins"
"""Folder of one file per checkpoint that no retention removes; it says why."""
_NAME = re.compile(r"step-(\d{8,})(\.partial|\.old)?")
Refusal = Callable[[Checkpoint], str | None]
"""Why a checkpoint that is whole is not taken, or None."""


def takes_all(checkpoint: Checkpoint) -> None:
    """Refuses nothing."""
    return None


class CheckpointFolder:
    """Writes, commits, finds and drops the checkpoints of a folder.

    A checkpoint is written into its staging folder (`begin`), told to be complete by the ranks (`complete`) and committed by whoever
    watches over them (`commit`): hashed, synced, marked, renamed. Whatever dies at whatever moment, `recover` and `latest` find the
    newest that was committed, or that was completely written on this machine since it was started.
    """

    def __init__(self, folder: Path, retention: Retention = Retention(), files: Files = Files()) -> None:
        self.folder = folder
        self.retention = retention
        self._files = files

    def staging(self, step: int) -> Path:
        """Where the ranks write the files of a checkpoint before it is committed."""
        return self.folder / f"step-{step:08d}.partial"

    def begin(self, step: int) -> Path:
        """An empty staging folder; what an earlier attempt left there is removed."""
        staging = self.staging(step)
        self._files.remove(staging)
        self._files.make(staging)
        return staging

    def complete(self, step: int, info: Mapping[str, Any]) -> None:
        """The ranks' word that every file of a staging folder is written; it may be committed from now on."""
        staging = self.staging(step)
        sizes = {name: file.stat().st_size for name, file in _files_of(staging).items()}
        word = {"version": VERSION, "step": step, "info": dict(info), "sizes": sizes, "boot": boot_id()}
        aside = staging / f".{COMPLETE}"
        self._files.write(aside, json.dumps(word).encode())
        self._files.rename(aside, staging / COMPLETE)

    def waiting(self) -> list[int]:
        """Steps whose files are complete and that nobody has committed yet."""
        return [step for step, suffix in self._names() if suffix == ".partial" and (self.staging(step) / COMPLETE).exists()]

    def in_flight(self) -> bool:
        """Whether a checkpoint is written and not yet committed and copied; the next one waits for it."""
        return bool(self.waiting()) or (self.folder / SENDING).exists()

    def sending(self, is_sent: bool) -> None:
        """Tell the ranks whether a checkpoint is being copied."""
        if is_sent:
            self._files.write(self.folder / SENDING, b"")
        else:
            self._files.remove(self.folder / SENDING)

    def commit(self, step: int, info: Mapping[str, Any] | None = None, score: float | None = None) -> Path:
        """Hash and sync what lies in the staging folder, mark it committed, give it its name, and drop what retention does not keep.

        Checkpoints of later steps are dropped too: they were damaged or rolled back, and this training has not come to them.
        `info` is what the ranks told where absent; `score` is what retention's best are chosen by. Raises CheckpointError when a file
        has another size than the ranks told.
        """
        staging, final = self.staging(step), self.folder / f"step-{step:08d}"
        info = self._told(step)["info"] if info is None else info
        if score is not None:
            info = {**info, "score": score}
        names = _files_of(staging)
        for file in names.values():
            self._files.sync(file)
        manifest = manifest_bytes(step, info, describe(names))
        self._files.write_synced(staging / MANIFEST, manifest)
        for folder in sorted({file.parent for file in names.values()} - {staging}, reverse=True):
            self._files.sync(folder)
        self._files.write_synced(staging / COMMIT, marker(manifest).encode())
        self._files.sync(staging)
        self._name(staging, final)
        self.withdraw_after(step)
        self._retain(step)
        return final

    def adopt(self, step: int, manifest: bytes) -> Checkpoint:
        """Commit what was copied into the staging folder from elsewhere, if it is what its manifest says. Raises CheckpointError."""
        staging = self.staging(step)
        for file in _files_of(staging).values():
            self._files.sync(file)
        self._files.write_synced(staging / MANIFEST, manifest)
        self._files.write_synced(staging / COMMIT, marker(manifest).encode())
        try:
            verify(staging)
        except CheckpointError:
            self._files.remove(staging)
            raise
        self._files.sync(staging)
        self._name(staging, self.folder / f"step-{step:08d}")
        return self.marked(step)

    def discard(self, step: int) -> None:
        """Remove what is written and not committed of a step."""
        self._files.remove(self.staging(step))

    def recover(self) -> list[str]:
        """Commit or discard what a killed attempt left behind; what was done, in words. Only for who alone writes here."""
        self.sending(False)
        notes = []
        for step, suffix in self._names():
            if suffix == ".partial":
                notes.append(self._recover(step))
            elif suffix == ".old":
                self._files.remove(self.folder / f"step-{step:08d}.old")
        return notes

    def latest(self, at_most: int | None = None, refuse: Refusal = takes_all) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that verifies and is not refused, and why newer ones were passed over."""
        skipped: list[str] = []
        for step in reversed(self.steps()):
            if at_most is not None and step > at_most:
                continue
            try:
                checkpoint = self.at(step)
            except CheckpointError as error:
                skipped.append(str(error))
                continue
            if (reason := refuse(checkpoint)) is None:
                return checkpoint, skipped
            skipped.append(f"{checkpoint.path}: {reason}")
        return None, skipped

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of a step, verified. Raises CheckpointError."""
        return verify(self._named(step))

    def marked(self, step: int) -> Checkpoint:
        """The checkpoint of a step by its marker and manifest; its files are not looked at. Raises CheckpointError."""
        path = self._named(step)
        record = read_manifest(path)
        return Checkpoint(path, record["step"], record["info"])

    def steps(self) -> list[int]:
        """Steps of what bears the name of a checkpoint, rising; whether it is whole says `at`."""
        return [step for step, suffix in self._names() if not suffix]

    def withdraw_after(self, step: int) -> list[int]:
        """Remove the checkpoints after a step, which a training that goes on from there does not lead to; those steps."""
        gone = [later for later in self.steps() if later > step]
        for later in gone:
            self._drop(later)
        return gone

    def pin(self, step: int, reason: str) -> None:
        """Keep a checkpoint whatever retention says, as long as its training's work folder is kept."""
        self._files.make(self.folder / PINS)
        self._files.write_synced(self.folder / PINS / f"{step:08d}.json", json.dumps({"step": step, "reason": reason}).encode())
        self._files.sync(self.folder / PINS)

    def pins(self) -> dict[int, str]:
        """The steps that are pinned, and why."""
        found = {}
        for path in sorted((self.folder / PINS).glob("*.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            found[int(record["step"])] = str(record["reason"])
        return found

    def _named(self, step: int) -> Path:
        path = self.folder / f"step-{step:08d}"
        if not path.is_dir():
            raise CheckpointError(f"{path}: there is no such checkpoint; there are those of steps {self.steps()}")
        return path

    def _told(self, step: int) -> dict[str, Any]:
        """What the ranks told of a staging folder. Raises CheckpointError where it does not agree with what lies there."""
        staging = self.staging(step)
        try:
            told: dict[str, Any] = json.loads((staging / COMPLETE).read_bytes())
            sizes, boot = told["sizes"], told["boot"]
        except FileNotFoundError:
            raise CheckpointError(f"{staging}: not completely written") from None
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{staging / COMPLETE}: unreadable ({error!r})") from None
        if boot != boot_id():  # the bytes may never have reached the disk, and their sizes would not tell
            raise CheckpointError(f"{staging}: the machine was started again before it was committed")
        found = {name: file.stat().st_size for name, file in _files_of(staging).items()}
        for name, size in sizes.items():
            if found.get(name) != size:
                raise CheckpointError(f"{staging / name}: {found.get(name, 'no')} bytes, its rank wrote {size}")
        return told

    def _recover(self, step: int) -> str:
        staging, final = self.staging(step), self.folder / f"step-{step:08d}"
        try:
            if (staging / COMMIT).exists():
                verify(staging)
                self._name(staging, final)
                return f"step {step} was marked and not yet named: committed"
        except CheckpointError:
            self._files.remove(staging / COMMIT)  # the marker of a commit that was cut short
        try:
            if (later := max(self.steps(), default=0)) > step:
                raise CheckpointError(f"{staging}: step {later} is committed")
            self.commit(step)
        except CheckpointError as error:
            self._files.remove(staging)
            return f"step {step} discarded: {error}"
        return f"step {step} was written and not committed: committed"

    def _name(self, staging: Path, final: Path) -> None:
        """Rename a marked staging folder; one of that name, which was damaged or is the same, goes."""
        old = final.with_suffix(".old")
        if final.exists():
            self._files.remove(old)
            self._files.rename(final, old)
        self._files.rename(staging, final)
        self._files.sync(self.folder)
        self._files.remove(old)

    def scores(self) -> dict[int, float]:
        """By step, what the checkpoints were scored when they were committed; only where retention asks for it."""
        scores = {}
        for step in self.steps() if self.retention.best else ():
            try:
                scores[step] = float(read_manifest(self.folder / f"step-{step:08d}")["info"]["score"])
            except (CheckpointError, KeyError):
                continue
        return scores

    def _retain(self, good: int) -> None:
        stay = kept(self.steps(), self.retention, self.pins(), self.scores(), good)
        for step in self.steps():
            if step not in stay:
                self._drop(step)

    def _drop(self, step: int) -> None:
        """Remove a checkpoint; one that is half removed bears no checkpoint's name."""
        path = self.folder / f"step-{step:08d}"
        self._files.remove(path.with_suffix(".old"))
        self._files.rename(path, path.with_suffix(".old"))
        self._files.remove(path.with_suffix(".old"))

    def _names(self) -> list[tuple[int, str]]:
        """(step, suffix) of everything of ours, rising."""
        matches = (_NAME.fullmatch(path.name) for path in self.folder.glob("step-*"))
        return sorted((int(match[1]), match[2] or "") for match in matches if match)


def _files_of(folder: Path) -> dict[str, Path]:
    """By name within the folder, what a checkpoint is made of."""
    ours = {MANIFEST, COMMIT, COMPLETE, f".{COMPLETE}"}
    found = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {name: file for name, file in found.items() if name not in ours}
