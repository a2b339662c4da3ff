"""Pin the input: put it in data/input, under DVC, and prove that the remote holds it before anything trains.

`python -m components.version` works in the current checkout. The input is the built-in corpus or, with data.source `folder`, a copy of
the user's files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

import yaml

from components.data.sources.digits import export_digits
from components.data.sources.folder import documents_files
from components.params import DataParams, load
from components.results import VersionResult
from components.run.dvc_remote import content_address, remote_address
from components.run.events import EventWriter
from components.run.failures import FailureClass, StageError
from components.run.filetree import place
from components.run.guard import guarded
from components.run.key import content_md5
from components.run.paths import Paths
from components.run.process import die_with_parent
from components.settings import Settings
from components.tracking.stage_run import StageRun


def fill(data: DataParams, target: Path) -> str:
    """Write the input into `target` unless it is there already; DVC's md5 of the folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".input-") as scratch:
        fresh = Path(scratch) / "input"
        fresh.mkdir()
        if data.source == "digits":
            export_digits(fresh / "digits")
        else:
            copy_folder(Path(data.path or ""), fresh / "folder")
        digest = content_md5(fresh)
        if not target.is_dir() or content_md5(target) != digest:
            place(fresh, target)
    return digest


def copy_folder(source: Path, target: Path) -> None:
    """Copy the user's files. Raises StageError (bad_data) for what is no regular file or lies outside of the folder."""
    if not documents_files(source):
        raise StageError(FailureClass.BAD_DATA, f"{source} has no documents.jsonl", "docs/data.md describes the format")
    inside = source.resolve()
    for folder, folders, names in os.walk(source, onerror=_unreadable):
        for linked in (Path(folder) / name for name in folders):
            if linked.is_symlink():
                raise StageError(FailureClass.BAD_DATA, f"{linked} is a link to a folder", "replace the link by the folder")
        for name in names:
            file = Path(folder) / name
            if not file.is_file():
                raise StageError(FailureClass.BAD_DATA, f"{file} is no regular file", "remove it, or replace the link by the file")
            if not file.resolve().is_relative_to(inside):
                raise StageError(FailureClass.BAD_DATA, f"{file} is a link out of the folder", "replace the link by the file")
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def pinned_digest(pin: Path) -> str | None:
    """DVC's md5 in a .dvc file; None where nothing is pinned."""
    try:
        return str(yaml.safe_load(pin.read_text(encoding="utf-8"))["outs"][0]["md5"])
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        raise StageError(FailureClass.BAD_DATA, f"{pin} is no DVC file", "restore it: git checkout -- data/input.dvc") from None


def _objects(folder: Path) -> set[str]:
    """DVC's md5 of the folder's listing and of every file in it: what a remote must hold."""
    return {content_md5(folder), *(content_md5(file) for file in folder.rglob("*") if file.is_file())}


def _held(paths: Paths, address: str) -> bool:
    """Whether a folder remote has every object of the input; other remotes are asked through DVC."""
    return "://" not in address and all(Path(content_address(paths.root, one)).is_file() for one in _objects(paths.input))


def _pin_and_push(paths: Paths, address: str) -> None:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.hashfile.db import get_index
    from dvc_data.hashfile.hash_info import HashInfo

    logging.getLogger("dvc").setLevel(logging.WARNING)  # its advice to `git add` is for people, not for a run's worktree
    wanted = _objects(paths.input)
    try:
        with Repo(str(paths.root)) as repo:
            repo.add(str(paths.input))
            repo.push(targets=[str(paths.input_pin)])
            remote = repo.cloud.get_remote_odb()
            missing = wanted - set(remote.oids_exist(list(wanted)))
            if missing:  # DVC takes a folder for complete where its listing is there: name the files themselves
                get_index(remote).clear()
                repo.cloud.push([HashInfo("md5", one) for one in missing], odb=remote)
                missing -= set(remote.oids_exist(list(missing)))
    except (DvcException, OSError) as error:
        cause = error.__cause__ or error
        message = f"the input could not be put under DVC and pushed to {address}: {cause}".replace("\n", "; ")
        raise StageError(FailureClass.INFRASTRUCTURE, message, "check the remote (`dvc remote list`), its rights and its space") from error
    if missing:
        message = f"the remote {address} did not take {len(missing)} objects of the input"
        raise StageError(FailureClass.INFRASTRUCTURE, message, "check its rights and its space")


def _unreadable(error: OSError) -> None:
    raise StageError(FailureClass.BAD_DATA, f"{error.filename} cannot be read: {error.strerror}", "change its permissions") from None


def _version(settings: Settings, events: EventWriter) -> None:
    paths = Paths(Path.cwd())
    address = remote_address(paths.root)
    if address is None:
        raise StageError(
            FailureClass.BAD_CONFIG, "no DVC remote is configured", "dvc remote add -d local ../.mmfs/remote, or set MMFS_REMOTE"
        )
    digest = fill(load(paths.params).data, paths.input)
    result = _describe(paths.input, digest, address)
    if pinned_digest(paths.input_pin) == digest and _held(paths, address):
        events.finished(result.as_dict())
        return
    key = hashlib.sha256(f"version {digest} {address}".encode()).hexdigest()
    events.started("version", key)
    run = StageRun.open(settings, "version", key, {"mmfs.run_id": settings.run_id or "none"})
    try:
        _pin_and_push(paths, address)
        run.log_summary(result.metrics)
        run.log_input("data/input", digest, content_address(paths.root, digest), "data/input", "version")
    except BaseException:
        run.close("FAILED")
        raise
    events.finished(result.as_dict())
    run.close("FINISHED")


def _describe(folder: Path, digest: str, address: str) -> VersionResult:
    files = [file for file in folder.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    metrics = {"input_files": float(len(files)), "input_bytes": float(size)}
    return VersionResult(
        digest=digest, files=len(files), bytes=size, remote=address, metrics=metrics, summary=f"{len(files)} files, {digest[:12]}"
    )


def main() -> int:
    """Version the input of the current checkout."""
    die_with_parent()
    return guarded("version", _version)


if __name__ == "__main__":
    sys.exit(main())
