"""Data versions as people ask for them: what one holds, and what changed. A version is the pinned outputs/index of a dvc.lock."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.data.documents import SPLITS
from components.data.index import COUNTS_FILE, QUARANTINE_FILE, Index, Row
from components.data.preparation.counts import VERSION as COUNTS_VERSION
from components.data.preparation.counts import Counts
from components.data.sources.source import Rejected
from components.run import git
from components.run.dvc_objects import fetch, listing
from components.run.failures import FailureClass, StageError
from components.run.filetree import link_tree, whole_folder
from components.run.paths import Home, Paths
from components.run.record import RunRecord, RunRecords, UnknownRun

STAGE, OUT = "prepare", "outputs/index"
FIRST = 10
_FIGURES = ("documents", "images", "tokens")


@dataclass(frozen=True)
class DataVersion:
    """`name` as it was asked for; `digest` is DVC's md5 of the index, None for the one that lies in the checkout; `folder` holds it."""

    name: str
    digest: str | None
    folder: Path

    def counts(self) -> dict[str, Any]:
        """counts.json; of a version from before there was one, counted now. Raises StageError where it is newer than this program."""
        file = self.folder / COUNTS_FILE
        if not file.exists():
            return _counted(self.folder)
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if values["version"] > COUNTS_VERSION:
            raise StageError(
                FailureClass.BAD_DATA, f"{file} has version {values['version']}, this mmfs reads up to {COUNTS_VERSION}", "update"
            )
        return values

    def rows(self) -> Iterator[Row]:
        """Every document. Raises CorpusError for a damaged index."""
        index = Index(self.folder)
        for split in SPLITS:
            for kind in index.kinds(split):
                yield from index.rows(split, kind)


@dataclass(frozen=True)
class Change:
    """A figure of a source, kind and split in two versions."""

    source: str
    kind: str
    split: str
    figure: str
    before: int
    after: int


@dataclass(frozen=True)
class Difference:
    """What changed: figures, and documents by id. `added` and so on are the first ids, `counts` how many there are of each in all."""

    before: str
    after: str
    changes: tuple[Change, ...]
    counts: Mapping[str, int]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    quarantined: tuple[int, int]
    missing: tuple[int, int]
    dropped: tuple[int, int]


def open_version(root: Path, name: str | None = None) -> DataVersion:
    """The version of a run (its name, a unique beginning of it, `latest`), of a DVC experiment or of a git revision; without a name the
    index in the checkout, else the latest run's. Fetched by hash where it is not at hand. Raises StageError.
    """
    home = Home(root)
    if name is None:
        here = Paths(root).index
        if here.is_dir():
            return DataVersion(OUT, None, here)
        name = "latest"
    return open_locked(root, _lock(root, home, name), name)


def open_locked(root: Path, lock: str, name: str) -> DataVersion:
    """The version that the text of a dvc.lock pins. Raises StageError."""
    home = Home(root)
    digest = _locked(lock, name)
    folder = home.folder / "data" / digest.removesuffix(".dir")
    if not folder.is_dir():
        objects = {entry.relpath: fetch(root, entry.md5) for entry in listing(root, digest)}
        with whole_folder(folder) as staging:
            for relpath, file in objects.items():
                (staging / relpath).parent.mkdir(parents=True, exist_ok=True)
                link_tree(file, staging / relpath)
    return DataVersion(name, digest, folder)


def difference(before: DataVersion, after: DataVersion, first: int = FIRST) -> Difference:
    """What changed between two versions; at most `first` ids of each sort, in ascending order."""
    old, new = before.counts(), after.counts()
    documents = {row.id: row.sha256 for row in before.rows()}
    added, changed = [], []
    for row in after.rows():
        known = documents.pop(row.id, None)
        if known is None:
            added.append(row.id)
        elif known != row.sha256:
            changed.append(row.id)
    found = {"added": sorted(added), "removed": sorted(documents), "changed": sorted(changed)}
    return Difference(
        before=before.name,
        after=after.name,
        changes=tuple(_changes(old, new)),
        counts={sort: len(ids) for sort, ids in found.items()},
        **{sort: tuple(ids[:first]) for sort, ids in found.items()},
        quarantined=(left_out(old, "quarantined"), left_out(new, "quarantined")),
        missing=(left_out(old, "missing"), left_out(new, "missing")),
        dropped=(left_out(old, "dropped"), left_out(new, "dropped")),
    )


def left_out(counts: Mapping[str, Any], sort: str) -> int:
    """Documents of a version that were `quarantined`, `missing` or `dropped`."""
    return sum(one["documents"] for one in counts.get(sort, ()))


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, after = ({(one["source"], one["kind"], one["split"]): one for one in counts["documents"]} for counts in (old, new))
    for key in sorted(before.keys() | after.keys()):
        for figure in _FIGURES:
            values = [int(side.get(key, {}).get(figure, 0)) for side in (before, after)]
            if values[0] != values[1]:
                yield Change(*key, figure, *values)


def _lock(root: Path, home: Home, name: str) -> str:
    """The text of the dvc.lock that a name leads to."""
    try:
        run = RunRecords(home).find(name)
    except UnknownRun:
        return _lock_of_revision(root, name)
    for file in _run_locks(home, run):
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise StageError(FailureClass.BAD_CONFIG, f"run {run.run_id} has no data yet", "wait until its stage `prepare` has ended")


def _run_locks(home: Home, run: RunRecord) -> list[Path]:
    return [home.run(run.run_id).folder / "dvc.lock", home.worktrees / run.run_id / "dvc.lock"]


def _lock_of_revision(root: Path, name: str) -> str:
    experiments = git.git(root, "for-each-ref", "--format=%(refname)", f"refs/exps/**/{name}").split()
    problem = ""
    for revision in (name, *experiments):
        try:
            return git.git(root, "show", f"{revision}:dvc.lock")
        except StageError as error:
            problem = error.message
    fix = "`mmfs runs` lists the runs; a git revision needs a committed dvc.lock"
    raise StageError(FailureClass.BAD_CONFIG, f"{name!r} names no run and no revision with a dvc.lock ({problem})", fix)


def _locked(text: str, name: str) -> str:
    try:
        outs = yaml.safe_load(text)["stages"][STAGE]["outs"]
        return next(str(out["md5"]) for out in outs if out["path"] == OUT)
    except (yaml.YAMLError, KeyError, TypeError, StopIteration):
        raise StageError(
            FailureClass.BAD_CONFIG, f"the dvc.lock of {name} has no {OUT} of stage {STAGE}", "it did not get that far"
        ) from None


def _counted(folder: Path) -> dict[str, Any]:
    counts = Counts()
    for _ in counts.counting(DataVersion("", None, folder).rows()):
        pass
    file = folder / QUARANTINE_FILE
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        values = json.loads(line)
        counts.quarantine(values.get("corpus", ""), Rejected(values["where"], values["reason"], values.get("missing", False)))
    return counts.as_dict()
