"""The few things asked of git, with errors that say what to do."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.run.failures import FailureClass, StageError

# Parameters are no source, and what DVC writes is made from them: changes to these do not make a run dirty.
NOT_SOURCE = ("params.yaml", "dvc.lock", "data/input.dvc", "data/.gitignore")


def head(root: Path) -> str:
    """Commit that is checked out. Raises StageError when there is no git, no repository or no commit."""
    try:
        return git(root, "rev-parse", "HEAD").strip()
    except StageError as error:
        if "not a git repository" in error.message:
            raise StageError(
                FailureClass.BAD_CONFIG, f"{root} is no git repository", "clone it with git, or run `git init` and commit"
            ) from None
        fix = "commit the source once: git add -A && git commit -m start"
        raise StageError(FailureClass.BAD_CONFIG, f"{root} has no commit to start from", fix) from None


def source_patch(root: Path) -> bytes:
    """Everything that differs from HEAD, new files included, as one patch; parameters and DVC's own files left out. Empty when clean."""
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        git(root, "read-tree", "HEAD", environment=index)
        git(root, "add", "-A", "--", ".", *(f":(exclude){path}" for path in NOT_SOURCE), environment=index)
        return _run(root, ["diff", "--cached", "--binary", "--full-index", "HEAD"], index)


def changed_files(patch: bytes) -> int:
    """How many files a patch of `source_patch` changes, makes or removes; its lines of content all begin with a mark."""
    return sum(line.startswith(b"diff --git ") for line in patch.splitlines())


def add_worktree(root: Path, folder: Path, sha: str) -> None:
    """A detached checkout of `sha` in `folder`."""
    git(root, "worktree", "prune")
    git(root, "worktree", "add", "--quiet", "--detach", str(folder), sha)


def apply_patch(checkout: Path, patch: Path) -> None:
    """Apply a recorded source patch to a fresh checkout, new files included in the index so that an experiment holds them."""
    git(checkout, "apply", "--index", "--binary", "--whitespace=nowarn", str(patch))


def remove_worktree(root: Path, folder: Path) -> None:
    """Remove a checkout; absent is fine."""
    if folder.exists():
        git(root, "worktree", "remove", "--force", "--force", str(folder))
    git(root, "worktree", "prune")


def git(root: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Output of a git command. Raises StageError."""
    return _run(root, arguments, environment).decode(errors="replace")


def _run(root: Path, arguments: Sequence[str], environment: Mapping[str, str] | None) -> bytes:
    own = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    try:
        done = subprocess.run(["git", *arguments], cwd=root, env=own | dict(environment or {}), capture_output=True, check=False)
    except FileNotFoundError:
        raise StageError(FailureClass.INFRASTRUCTURE, "git is not installed", "install it, for example: apt-get install git") from None
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip().replace("\n", "; ")
        kind = FailureClass.INFRASTRUCTURE if "No space left" in message else FailureClass.BAD_CONFIG
        raise StageError(kind, f"git {arguments[0]}: {message}", "free some space" if kind is FailureClass.INFRASTRUCTURE else "")
    return done.stdout
