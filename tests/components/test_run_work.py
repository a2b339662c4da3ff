"""Work folders: unfinished work survives a kill, finished outs serve whoever waited, a living owner is never robbed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from components.run.lease import SILENCE_S, Lease, Owner
from components.run.work import WorkFolder, discard_work, hold_work

KEY = "k" * 64


def never(*arguments: object) -> None:
    raise AssertionError("nobody has to be waited for")


def hold(root: Path, on_wait=never):  # type: ignore[no-untyped-def]
    return hold_work(root / "work", KEY, root / "checkout", on_wait, never)


def publish(work: WorkFolder, root: Path, text: str = "weights") -> None:
    made = work / "out"
    made.mkdir()
    (made / "weights.json").write_text(text)
    work.publish(made, root / "checkout" / "outputs" / "train")


def test_unfinished_work_is_found_again(tmp_path: Path) -> None:
    with hold(tmp_path) as work:
        assert not work.taken_over
        (work / "checkpoint").write_text("1")
    with hold(tmp_path) as work:
        assert work.taken_over
        assert (work / "checkpoint").read_text() == "1"
        assert work.restore() is None


def test_finished_outs_come_back_and_the_rest_goes(tmp_path: Path) -> None:
    out = tmp_path / "checkout" / "outputs" / "train"
    with hold(tmp_path) as work:
        (work / "checkpoint").write_text("1")
        publish(work, tmp_path)
        work.finish({"loss": 1})
        assert not work.body.exists()
    (out / "weights.json").unlink()
    (out / "stale").write_text("x")
    with hold(tmp_path) as work:
        assert work.restore() == {"loss": 1}
    assert [path.name for path in out.iterdir()] == ["weights.json"]


def test_published_but_unfinished_is_no_result(tmp_path: Path) -> None:
    with hold(tmp_path) as work:
        publish(work, tmp_path)
    with hold(tmp_path) as work:
        assert work.restore() is None
        publish(work, tmp_path, "second")
        work.finish({})
    assert (tmp_path / "checkout" / "outputs" / "train" / "weights.json").read_text() == "second"


def test_a_finished_folder_that_lost_bytes_is_computed_again(tmp_path: Path) -> None:
    with hold(tmp_path) as work:
        publish(work, tmp_path)
        work.finish({})
        kept = work.folder / "finished" / "outputs" / "train" / "weights.json"
    kept.unlink()
    kept.write_text("")
    with hold(tmp_path) as work:
        assert work.restore() is None


HOLDER = """
import sys, time
from pathlib import Path
from components.run.work import hold_work
with hold_work(Path(sys.argv[1]) / "work", sys.argv[2], Path(sys.argv[1]), print, print) as work:
    (work / "checkpoint").write_text("from the other")
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def start_holder(root: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(root), KEY, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_living_owner_is_waited_for(tmp_path: Path) -> None:
    waited: list[Owner] = []
    with start_holder(tmp_path, 1.0) as process, hold(tmp_path, waited.append) as work:
        assert process.wait() == 0
        assert (work / "checkpoint").read_text() == "from the other"
    assert [owner.pid for owner in waited] == [process.pid]


def test_a_killed_owner_is_taken_over(tmp_path: Path) -> None:
    with start_holder(tmp_path, 600) as process:
        process.kill()
    with hold(tmp_path) as work:
        assert work.taken_over
        assert (work / "checkpoint").read_text() == "from the other"


def test_only_one_of_many_gets_a_dead_lease(tmp_path: Path) -> None:
    with start_holder(tmp_path, 600) as process:
        process.kill()
    folder = tmp_path / "work" / KEY
    leases = [Lease(folder, never) for _ in range(8)]
    barrier = threading.Barrier(8)
    won: list[bool] = []

    def take(lease: Lease) -> None:
        barrier.wait()
        won.append(lease.try_acquire())

    threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(won) == 1
    for lease in leases:
        lease.release()


def test_owners_are_told_apart(tmp_path: Path) -> None:
    me = Owner.myself()
    assert me.alive(me)
    assert not replace(me, start=me.start + 1).alive(me), "a later process with the same pid"
    assert not replace(me, boot="another").alive(me), "before a restart of the machine"
    elsewhere = replace(me, host="elsewhere", pid=1)
    assert elsewhere.alive(me)
    assert not replace(elsewhere, heartbeat=time.time() - SILENCE_S - 1).alive(me)
    assert Owner(**asdict(me)).same(me)


def test_old_folders_are_discarded_and_held_ones_never(tmp_path: Path) -> None:
    with hold(tmp_path) as work:
        assert discard_work(tmp_path / "work", -1) == 0
    assert discard_work(tmp_path / "work", 3600) == 0
    assert discard_work(tmp_path / "work", -1) == 1
    assert not work.folder.exists()


def test_an_old_folder_of_a_killed_process_is_discarded(tmp_path: Path) -> None:
    with start_holder(tmp_path, 600) as process:
        assert discard_work(tmp_path / "work", -1) == 0
        process.kill()
    assert discard_work(tmp_path / "work", 3600) == 0
    assert discard_work(tmp_path / "work", -1) == 1


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_out_appears_whole(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "checkout" / "outputs" / "x"
    with hold(tmp_path) as work:
        for text in ("first", "second"):
            made = work / "made"
            if kind == "file":
                made.write_text(text)
            else:
                made.mkdir()
                (made / "file").write_text(text)
            work.publish(made, out)
            assert (out if kind == "file" else out / "file").read_text() == text
    assert [path.name for path in out.parent.iterdir()] == ["x"]
