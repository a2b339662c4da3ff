"""Committing off the training path: whatever is cut, refused or taken over, a good checkpoint is found afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_faults import FullPlace, Fuse, FusedFiles, FusedPlace, PowerCut
from checkpoint_world import IDENTITIES, PATIENCE_S, Told, save, until, written
from hypothesis import given
from hypothesis import strategies as st
from small_disk import can_make_disks, small_disk

from components.checkpoints.committer import Committer
from components.checkpoints.files import Files
from components.checkpoints.folder import CheckpointFolder
from components.checkpoints.identity import differences
from components.checkpoints.manifest import CheckpointError, verify
from components.checkpoints.places import FolderPlace, PlaceError, open_place
from components.checkpoints.resume import find_resume
from components.checkpoints.retention import Retention, kept
from components.checkpoints.second import SecondPlace, SupersededError
from components.run.failures import FailureClass, StageError
from components.run.lease import Lease


def saved_until(work: Path, place: Path, fuse: Fuse) -> None:
    """The third checkpoint of a training on a fused disk, then a power cut, at the latest when all is done."""
    files, second = FusedFiles(fuse), SecondPlace(FusedPlace(place, fuse))
    try:
        second.claim({"host": "here"})
        save(CheckpointFolder(work, Retention(last=2), files), second, 6, files)
    finally:
        files.lose()


@pytest.mark.parametrize("torn", [False, True], ids=["cut", "torn"])
def test_every_operation_of_a_save_cut_once_leaves_a_good_checkpoint_here_and_there(torn: bool, tmp_path: Path) -> None:
    second = SecondPlace(FolderPlace(tmp_path / "before" / "place"))
    second.claim({"host": "here"})
    for step in (2, 4):
        save(CheckpointFolder(tmp_path / "before" / "work"), second, step)

    def world(name: str) -> tuple[Path, Path]:
        shutil.copytree(tmp_path / "before", tmp_path / name)
        return tmp_path / name / "work", tmp_path / name / "place"

    whole = Fuse()
    work, place = world("whole")
    saved_until(work, place, whole)
    assert CheckpointFolder(work).at(6).step == 6, "what was synced outlives the power cut"
    kinds = Counter(operation.split()[0] for operation in whole.done)
    assert kinds.keys() == {"make", "write", "sync", "rename", "remove", "send", "create", "delete"}
    for last, cut in enumerate(whole.done):
        work, place = world(str(last))
        with pytest.raises(PowerCut):
            saved_until(work, place, Fuse(last, torn))
        folder = CheckpointFolder(work)
        found, _ = find_resume(folder, IDENTITIES)
        assert found is not None and found.step in (4, 6), cut
        assert verify(found.path) == found
        there = SecondPlace(FolderPlace(place))
        elsewhere, _ = find_resume(CheckpointFolder(tmp_path / str(last) / "new machine"), IDENTITIES, second=there)
        assert elsewhere is not None and elsewhere.step in (4, 6), cut
        there.claim({"host": "later"})
        save(folder, there, 6)  # the training goes on
        assert folder.at(6).step == there.steps()[-1] == 6, cut
        assert not [path for path in work.iterdir() if path.suffix in (".partial", ".old")], cut
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print(f"{len(whole.done)} operations of a save, each {'torn' if torn else 'cut'} once: {told}")


def test_checkpoints_are_committed_while_the_ranks_go_on_and_the_next_one_waits(tmp_path: Path) -> None:
    folder, told = CheckpointFolder(tmp_path / "work"), Told()
    gate = threading.Event()

    class Slow(FolderPlace):
        def send(self, name: str, file: Path, sha256: str) -> None:
            gate.wait(PATIENCE_S)
            super().send(name, file, sha256)

    with Committer(folder, told, SecondPlace(Slow(tmp_path / "place"))) as committer:
        written(folder, 2)
        until(lambda: folder.steps() == [2])
        assert folder.in_flight(), "it is still being copied"
        gate.set()
        until(lambda: not folder.in_flight())
        written(folder, 4)
        until(lambda: not folder.in_flight())
        assert committer.problem is None
        (folder.begin(6) / "half").write_bytes(b"x")
        written(folder, 8)
    assert folder.steps() == [4, 8], "what was complete when the ranks ended is committed"
    assert told.kinds == [(kind, step) for step in (2, 4, 8) for kind in ("checkpoint", "checkpoint_copied")]
    assert told.actions[0][2]["bytes"] == 3000
    assert SecondPlace(FolderPlace(tmp_path / "place")).steps() == [4, 8]
    assert not list(folder.folder.glob("*.partial"))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda staging: (staging / "complete.json").unlink(), "not completely written"),
        (lambda staging: (staging / "complete.json").write_text("{"), "complete.json: unreadable"),
        (lambda staging: (staging / "cursor.json").write_bytes(b"short"), "cursor.json: 5 bytes, its rank wrote 1000"),
        (lambda staging: (staging / "cursor.json").unlink(), "cursor.json: no bytes, its rank wrote 1000"),
        (lambda staging: _of_another_boot(staging / "complete.json"), "the machine was started again before it was committed"),
    ],
)
def test_what_a_killed_training_had_written_is_committed_or_discarded_with_the_reason(
    tmp_path: Path, harm: Callable[[Path], object], reason: str
) -> None:
    folder = CheckpointFolder(tmp_path)
    written(folder, 2)
    found, notes = find_resume(folder, IDENTITIES)
    assert found is not None and found.step == 2
    assert notes == ["checkpoint of step 2 was written and not committed: committed"]
    written(folder, 4)
    harm(folder.staging(4))
    found, notes = find_resume(folder, IDENTITIES)
    assert found is not None and found.step == 2
    assert len(notes) == 1 and reason in notes[0]
    assert not folder.staging(4).exists()


def _of_another_boot(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot": "another"}))


def test_a_training_is_never_begun_anew_without_a_word(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    assert find_resume(folder, IDENTITIES) == (None, [])
    for step in (2, 4):
        written(folder, step)
        folder.commit(step)
    other = {"schedule": {"steps": 8, "learning_rate": 0.2}}
    with pytest.raises(StageError, match=r"of another training: schedule\.learning_rate is 0\.2, the checkpoint has 0\.1") as error:
        find_resume(folder, other)
    assert error.value.failure is FailureClass.BAD_CONFIG
    assert find_resume(folder, IDENTITIES, lambda checkpoint: "rolled back")[0] is None, "who rolled them back knows"
    for step in (2, 4):
        (tmp_path / f"step-{step:08d}" / "engine" / "checkpoint" / "rank-1.pt").unlink()
    with pytest.raises(StageError, match=r"rank-1\.pt: missing.*rank-1\.pt: missing") as error:
        find_resume(folder, IDENTITIES)
    assert error.value.failure is FailureClass.BAD_DATA
    assert folder.steps() == [2, 4], "nothing is removed"
    with pytest.raises(CheckpointError, match=r"there is no such checkpoint; there are those of steps \[2, 4\]"):
        folder.at(3)


def test_an_empty_machine_goes_on_from_the_second_place(tmp_path: Path) -> None:
    place = tmp_path / "place"
    second = SecondPlace(FolderPlace(place))
    second.claim({"host": "old"})
    for step in (2, 4, 6):
        save(CheckpointFolder(tmp_path / "old", Retention(last=3)), second, step)
    victim = next(place.glob("step-00000006/*/cursor.json"))
    victim.write_bytes(b"harmed")
    new = CheckpointFolder(tmp_path / "new")
    found, notes = find_resume(new, IDENTITIES, second=SecondPlace(FolderPlace(place)))
    assert found is not None and found.step == 4 and found.path == new.folder / "step-00000004"
    assert len(notes) == 1 and "cursor.json" in notes[0]
    with pytest.raises(StageError, match=r"schedule\.steps is 9, the checkpoint has 8"):
        find_resume(CheckpointFolder(tmp_path / "third"), {"schedule": {**IDENTITIES["schedule"], "steps": 9}}, second=second)


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    folder, second = CheckpointFolder(tmp_path / "work"), SecondPlace(FolderPlace(tmp_path / "place"))
    second.claim({"host": "here"})
    for step in (2, 4, 6):
        save(folder, second, step)
    for number, path in enumerate(sorted(tmp_path.rglob("*"), reverse=True)):  # the later the step, the older
        os.utime(path, (1e9 + number, 1e9 + number))
    assert folder.steps() == [4, 6]
    for work in (folder, CheckpointFolder(tmp_path / "new")):
        found, _ = find_resume(work, IDENTITIES, second=SecondPlace(FolderPlace(tmp_path / "place")))
        assert found is not None and found.step == 6


def test_a_place_that_does_not_answer_ends_only_a_start_that_needs_it(tmp_path: Path) -> None:
    class Dead(FolderPlace):
        def names(self, prefix: str) -> list[str]:
            raise PlaceError("no answer")

    folder = CheckpointFolder(tmp_path / "work")
    with pytest.raises(StageError, match="whether there are checkpoints to go on from is unknown: no answer") as error:
        find_resume(folder, IDENTITIES, second=SecondPlace(Dead(tmp_path)))
    assert error.value.failure is FailureClass.INFRASTRUCTURE
    written(folder, 2)
    found, notes = find_resume(folder, IDENTITIES, second=SecondPlace(Dead(tmp_path)))
    assert found is not None and "was not asked for later ones" in notes[1]


def test_a_full_bucket_costs_the_copy_and_not_the_checkpoint(tmp_path: Path) -> None:
    folder, told = CheckpointFolder(tmp_path / "work"), Told()
    with Committer(folder, told, SecondPlace(FullPlace(tmp_path / "place"))) as committer:
        for step in (2, 4):
            written(folder, step)
            until(lambda: not folder.in_flight())
        assert committer.problem is None
    assert folder.steps() == [2, 4]
    assert [kind for kind, _ in told.kinds] == ["checkpoint", "checkpoint_not_copied"] * 2
    assert "the bucket is full" in told.actions[1][2]["reason"]


def test_who_is_superseded_cannot_commit_and_harms_nothing(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path / "place")
    first, second = SecondPlace(place), SecondPlace(place)
    early, late = CheckpointFolder(tmp_path / "early"), CheckpointFolder(tmp_path / "late")
    first.claim({"host": "early"})
    save(early, first, 2)
    second.claim({"host": "late"})
    with pytest.raises(SupersededError, match=r"taken over by .*late"):
        save(early, first, 4)
    save(late, second, 2)
    save(late, second, 4)
    found, _ = find_resume(CheckpointFolder(tmp_path / "new"), IDENTITIES, second=SecondPlace(place))
    assert found is not None and found.step == 4
    told = Told()
    with Committer(early, told, first) as committer:
        until(lambda: committer.problem is not None)
    assert committer.problem is not None and committer.problem.failure is FailureClass.BAD_CONFIG, "it must not be started again by itself"


def test_of_two_processes_at_one_folder_the_second_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from components.run.lease import Lease; Lease(pathlib.Path(sys.argv[1])).try_acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code, str(tmp_path)]
    folder = CheckpointFolder(tmp_path)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "held\n"
        for attempt in (lambda: Committer(folder, Told()).__enter__(), lambda: find_resume(folder, IDENTITIES)):
            with pytest.raises(StageError, match=f"process {other.pid} on .* writes the checkpoints") as error:
                attempt()
            assert error.value.failure is FailureClass.INFRASTRUCTURE
        other.stdin.close()
    with Committer(folder, Told()):  # the dead one's lease is taken over
        assert not Lease(tmp_path).try_acquire()


def test_a_full_disk_is_a_named_problem_and_the_checkpoint_is_committed_once_there_is_space(tmp_path: Path) -> None:
    class Full(Files):
        full = True

        def write(self, path: Path, data: bytes) -> None:
            if self.full and path.name == "manifest.json":
                raise OSError(28, "No space left on device", str(path))
            super().write(path, data)

    files = Full()
    folder = CheckpointFolder(tmp_path, files=files)
    with Committer(folder, Told()) as committer:
        written(folder, 2)
        until(lambda: committer.problem is not None)
    assert committer.problem is not None
    assert committer.problem.failure is FailureClass.INFRASTRUCTURE
    assert "the disk is full" in committer.problem.message
    files.full = False
    found, _ = find_resume(folder, IDENTITIES)
    assert found is not None and found.step == 2


FILL = """
import sys, pathlib
from components.checkpoints.folder import CheckpointFolder
folder = CheckpointFolder(pathlib.Path("checkpoints"))
for step in range(1, 9):
    staging = folder.begin(step)
    try:
        (staging / "weights").write_bytes(bytes([step]) * (1 << 20))
        folder.complete(step, {})
        folder.commit(step)
    except OSError as error:
        print(step, error.strerror)
        break
"""


@pytest.mark.skipif(not can_make_disks(), reason="needs unshare and nsenter with user namespaces")
def test_on_a_disk_that_is_really_full_the_last_good_one_stays(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with small_disk(tmp_path / "disk", "2500k") as disk:
        done = disk.run(disk.path, environment, sys.executable, "-c", FILL)
        assert done.stdout == "3 No space left on device\n", done.stderr
        folder = CheckpointFolder(disk.seen / "checkpoints")
        found, _ = folder.latest()
        assert found is not None and found.step == 2


def test_what_is_pinned_stays_and_what_was_rolled_back_goes(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, Retention(last=1, best=1))
    for step, score in ((2, 0.5), (4, 0.1), (6, 0.3), (8, 0.4)):
        written(folder, step)
        folder.commit(step, score=score)
        if step == 2:
            folder.pin(2, "registered as mmfs-vqa 3")
    assert folder.pins() == {2: "registered as mmfs-vqa 3"}
    assert folder.steps() == [2, 4, 8]
    assert folder.withdraw_after(4) == [8]
    assert folder.latest(at_most=3)[0] == folder.at(2)


@given(
    steps=st.sets(st.integers(0, 60), max_size=12),
    last=st.integers(1, 4),
    every=st.integers(0, 7),
    best=st.integers(0, 3),
    pinned=st.sets(st.integers(0, 60), max_size=4),
    scored=st.dictionaries(st.integers(0, 60), st.floats(-1, 1), max_size=8),
    good=st.none() | st.integers(0, 60),
)
def test_retention_keeps_what_it_promises_and_nothing_else(
    steps: set[int], last: int, every: int, best: int, pinned: set[int], scored: dict[int, float], good: int | None
) -> None:
    stay = kept(steps, Retention(last, every, best), pinned, scored, good)
    assert stay <= steps
    assert steps & pinned <= stay
    assert good not in steps or good in stay
    newest = sorted(steps, reverse=True)[:last]
    assert set(newest) <= stay
    known = steps & scored.keys()
    least = sorted(scored[step] for step in known)[:best]
    assert all(any(scored[step] == value for step in stay & known) for value in least)
    reasons = {step for step in steps if every and step % every == 0} | set(newest) | pinned | {good}
    assert len(stay - reasons) <= best
    assert kept(stay, Retention(last, every, best), pinned, scored, good) == stay, "keeping again drops nothing more"


def test_retention_keeps_one_at_least() -> None:
    with pytest.raises(ValueError, match="at least the last checkpoint, not 0"):
        Retention(last=0)


def test_what_differs_is_told_by_name() -> None:
    assert differences({"a": {"b": 1, "c": [1]}, "d": None}, {"a": {"b": 2, "c": [1]}, "e": "x" * 80}) == [
        "a.b is 1, the checkpoint has 2",
        f"e is absent, the checkpoint has {'x' * 37}...",
    ]


def test_an_unknown_address_is_refused() -> None:
    with pytest.raises(ValueError, match="is no place for checkpoints: give a folder or s3://bucket/prefix"):
        open_place("ftp://somewhere", "key")
