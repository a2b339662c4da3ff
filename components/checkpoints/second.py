"""The checkpoints of a training in a second place: written by one at a time, each whole once its COMMIT object is there.

Objects: `writers/N.json`, a claim; `step-S/COMMIT`, the marker; `step-S/writer-N/...`, the files of the checkpoint that the marker names. A
writer never touches what another wrote, so that one who is late cannot harm a committed checkpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.checkpoints.folder import CheckpointFolder
from components.checkpoints.manifest import MANIFEST, Checkpoint, CheckpointError, marker, parse_manifest, read_manifest, sha256_of
from components.checkpoints.places import Place, PlaceError
from components.checkpoints.retention import Retention, kept

_STEP = re.compile(r"step-(\d{8,})/COMMIT")
_WRITER = re.compile(r"writers/(\d{8,})\.json")


class SupersededError(Exception):
    """Another process has taken the training over; this one must not write any more."""


class SecondPlace:
    """One training's checkpoints in a place. Reading needs no claim; `send` needs one."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._writer = 0

    @property
    def address(self) -> str:
        """For people."""
        return self._place.address

    def claim(self, who: Mapping[str, Any]) -> int:
        """Become the writer: whoever was it before cannot commit any more. Claims are numbered; no clock decides."""
        while True:
            number = max(self._writers(), default=0) + 1
            if self._place.create(f"writers/{number:08d}.json", json.dumps(dict(who)).encode()):
                self._writer = number
                self._place.tidy()
                return number

    @property
    def claimed(self) -> bool:
        """Whether this process has claimed the place, be it that another one has since."""
        return self._writer > 0

    def check_claim(self) -> None:
        """Raises SupersededError when another process has claimed the place since."""
        if (newest := max(self._writers(), default=0)) != self._writer:
            who = self._place.read(f"writers/{newest:08d}.json") or b"{}"
            raise SupersededError(f"{self.address}: taken over by {who.decode(errors='replace')}")

    def steps(self) -> list[int]:
        """Steps of committed checkpoints, rising."""
        return sorted(int(match[1]) for name in self._place.names("step-") if (match := _STEP.fullmatch(name)))

    def send(self, checkpoint: Path, step: int) -> None:
        """Copy a committed checkpoint of the work folder and commit it there. Those of later steps go: this training did not come to them.

        Raises PlaceError, or SupersededError when another process claimed the place.
        """
        self.check_claim()
        manifest = (checkpoint / MANIFEST).read_bytes()
        folder = f"step-{step:08d}/writer-{self._writer:08d}"
        for name, described in read_manifest(checkpoint)["files"].items():
            self._place.send(f"{folder}/{name}", checkpoint / name, described["sha256"])
        self._place.send(f"{folder}/{MANIFEST}", checkpoint / MANIFEST, sha256_of(checkpoint / MANIFEST))
        self.check_claim()
        self._commit(step, json.dumps({"writer": self._writer, "manifest": marker(manifest)}).encode())
        for later in self.steps():
            if later > step:
                self.drop(later)

    def info(self, step: int) -> Checkpoint:
        """What a committed checkpoint says of itself, its files not looked at. Raises CheckpointError, PlaceError."""
        prefix, manifest, commit = self._marked(step)
        record = parse_manifest(manifest, commit["manifest"], f"{self.address}/{prefix}")
        return Checkpoint(Path(f"{self.address}/{prefix}"), record["step"], record["info"])

    def fetch(self, step: int, folder: Path) -> bytes:
        """Copy the files of a checkpoint into an empty folder; its manifest, which they have yet to be compared with.

        Raises CheckpointError, PlaceError.
        """
        prefix, manifest, commit = self._marked(step)
        for name in parse_manifest(manifest, commit["manifest"], f"{self.address}/{prefix}")["files"]:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise CheckpointError(f"{self.address}/{prefix}: its manifest names {name!r}")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                self._place.fetch(f"{prefix}/{name}", folder / name)
            except PlaceError as error:
                raise CheckpointError(f"step {step} cannot be fetched: {error}") from None
        return manifest

    def copy_to(self, step: int, folder: CheckpointFolder) -> Checkpoint:
        """Fetch a checkpoint and commit it in a folder, verified. Raises CheckpointError, PlaceError."""
        return folder.adopt(step, self.fetch(step, folder.begin(step)))

    def retain(self, rule: Retention, pinned: Mapping[int, str], scores: Mapping[int, float], good: int) -> None:
        """Drop what retention does not keep."""
        stay = kept(self.steps(), rule, pinned, scores, good)
        begun = {int(name.split("/")[0].removeprefix("step-")) for name in self._place.names("step-")}  # whether committed or not
        for step in begun - stay:
            self.drop(step)

    def drop(self, step: int) -> None:
        """Remove a checkpoint, its marker first."""
        self._place.delete(f"step-{step:08d}/COMMIT")
        for name in self._place.names(f"step-{step:08d}/"):
            self._place.delete(name)

    def _commit(self, step: int, commit: bytes) -> None:
        name = f"step-{step:08d}/COMMIT"
        if not self._place.create(name, commit):
            found = self._place.read(name)
            if found is not None and found != commit:
                if json.loads(found)["writer"] > self._writer:
                    raise SupersededError(f"{self.address}: another process has committed step {step}")
                self._place.delete(name)  # of one that wrote before the claim, or of before a rollback
                self._place.create(name, commit)
        if self._place.read(name) != commit:
            raise SupersededError(f"{self.address}: another process has committed step {step}")

    def _writers(self) -> list[int]:
        return [int(match[1]) for name in self._place.names("writers/") if (match := _WRITER.fullmatch(name))]

    def _marked(self, step: int) -> tuple[str, bytes, dict[str, Any]]:
        """(prefix of the files, manifest, marker) of a committed checkpoint."""
        data = self._place.read(f"step-{step:08d}/COMMIT")
        try:
            commit: dict[str, Any] = json.loads(data or b"")
            prefix = f"step-{step:08d}/writer-{int(commit['writer']):08d}"
            str(commit["manifest"])
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(f"{self.address}/step-{step:08d}: its COMMIT is absent or unreadable") from None
        if (manifest := self._place.read(f"{prefix}/{MANIFEST}")) is None:
            raise CheckpointError(f"{self.address}/{prefix}/{MANIFEST}: missing")
        return prefix, manifest, commit
