"""Pin the input: put it in data/input, under DVC, and prove that the remote holds it before anything trains.

`python -m components.version` works in the current checkout. The input is the built-in corpus; with data.source `folder`, a copy of the
user's files; with `corpora`, what `mmfs data add` pinned, linked from DVC's cache. A tokenizer that is given lies beside it.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import tempfile
from pathlib import Path

from components.corpora import assemble, copy_tokenizer
from components.data.index import TOKENIZER_FILE
from components.data.sources.digits import export_digits
from components.data.sources.folder import documents_files
from components.params import DataParams, load
from components.results import VersionResult
from components.run.dvc_objects import listing
from components.run.dvc_remote import content_address, remote_address
from components.run.events import EventWriter
from components.run.failures import FailureClass, StageError
from components.run.filetree import place
from components.run.folder_copy import copy_folder
from components.run.guard import guarded
from components.run.key import content_md5
from components.run.paths import Paths
from components.run.pins import pinned_digest
from components.run.process import die_with_parent
from components.settings import Settings
from components.tracking.stage_run import StageRun


def fill(data: DataParams, target: Path, main: Path) -> str:
    """Write the built-in corpus or the user's folder into `target` unless it is there already; DVC's md5 of the folder. Paths of
    parameters are relative to `main`. Raises StageError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".input-") as scratch:
        fresh = Path(scratch) / "input"
        fresh.mkdir()
        if data.source == "digits":
            export_digits(fresh / "digits")
        else:
            source = main / (data.path or "")
            if not documents_files(source):
                raise StageError(FailureClass.BAD_DATA, f"{source} has no documents.jsonl", "docs/data.md describes the format")
            copy_folder(source, fresh / "folder")
        if data.tokenizer is not None:
            copy_tokenizer(data, main, fresh / TOKENIZER_FILE)
        digest = content_md5(fresh)
        if not target.is_dir() or content_md5(target) != digest:
            place(fresh, target)
    return digest


def _objects(paths: Paths, pinned: str | None) -> set[str]:
    """DVC's md5 of the input's listing and of every file in it: what a remote must hold. The listing of a `pinned` folder is known."""
    if pinned is not None:
        return {pinned, *(entry.md5 for entry in listing(paths.root, pinned))}
    return {content_md5(paths.input), *(content_md5(file) for file in paths.input.rglob("*") if file.is_file())}


def _held(paths: Paths, address: str, pinned: str | None) -> bool:
    """Whether a folder remote has every object of the input; other remotes are asked through DVC."""
    return "://" not in address and all(Path(content_address(paths.root, one)).is_file() for one in _objects(paths, pinned))


def _pin_and_push(paths: Paths, address: str, pinned: str | None) -> None:
    """Put the input under DVC, where it is not `pinned` already, and have the remote hold all of it."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.hashfile.db import get_index
    from dvc_data.hashfile.hash_info import HashInfo

    logging.getLogger("dvc").setLevel(logging.WARNING)  # its advice to `git add` is for people, not for a run's worktree
    wanted = _objects(paths, pinned)
    try:
        with Repo(str(paths.root)) as repo:
            if pinned is None:
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


def _version(settings: Settings, events: EventWriter) -> None:
    paths = Paths(Path.cwd())
    address = remote_address(paths.root)
    if address is None:
        raise StageError(
            FailureClass.BAD_CONFIG, "no DVC remote is configured", "dvc remote add -d local ../.mmfs/remote, or set MMFS_REMOTE"
        )
    data = load(paths.params).data
    pinned = assemble(data, paths, settings.root) if data.source == "corpora" else None
    digest = pinned or fill(data, paths.input, settings.root)
    result = _describe(paths.input, digest, address)
    if pinned_digest(paths.input_pin) == digest and _held(paths, address, pinned):
        events.finished(result.as_dict())
        return
    key = hashlib.sha256(f"version {digest} {address}".encode()).hexdigest()
    events.started("version", key)
    run = StageRun.open(settings, "version", key, {"mmfs.run_id": settings.run_id or "none"})
    try:
        _pin_and_push(paths, address, pinned)
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
