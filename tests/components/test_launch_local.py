"""Ranks as processes: they meet, fail together, and never outlive who started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from training_world import environment, wait

from components.launch.local import RankGroup, Starter, launch_ranks, start_process
from components.launch.warm import SOCKET_VARIABLE, start_warm, warm_ranks

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
folder, what = Path(sys.argv[1]), sys.argv[2]
rank = int(os.environ["RANK"])
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "COLOUR")
seen = {name: os.environ.get(name) for name in names}
(folder / f"{rank}.json").write_text(json.dumps(seen | {"group": os.getpgid(0), "pid": os.getpid(), "parent": os.getppid()}))
print("rank", rank, "speaks", flush=True)
if what == "fail" and rank == 1:
    sys.exit(79)
if what == "killed" and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if what == "graceful":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(75))
if what == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if what != "succeed":
    (folder / f"ready-{rank}").touch()
    time.sleep(600)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A folder with a rank program `rank_under_test`, which leaves word of what it saw."""
    (tmp_path / "rank_under_test.py").write_text(PROGRAM)
    return tmp_path


def start(folder: Path, what: str, starter: Starter = start_process, **variables: str) -> RankGroup:
    own = {**environment(variables), "PYTHONPATH": f"{environment()['PYTHONPATH']}{os.pathsep}{folder}"}
    return launch_ranks("rank_under_test", [str(folder), what], 2, own, folder / "logs", starter)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ready(folder: Path) -> bool:
    return all((folder / f"ready-{rank}").exists() for rank in range(2))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pids(folder: Path) -> list[int]:
    return [json.loads((folder / f"{rank}.json").read_text())["pid"] for rank in range(2)]


def test_ranks_get_torchruns_variables_groups_and_logs(program: Path) -> None:
    with start(program, "succeed", COLOUR="green") as ranks:
        assert wait(ranks) is None
    seen = [json.loads((program / f"{rank}.json").read_text()) for rank in range(2)]
    assert [(one["RANK"], one["LOCAL_RANK"], one["WORLD_SIZE"], one["COLOUR"]) for one in seen] == [
        ("0", "0", "2", "green"),
        ("1", "1", "2", "green"),
    ]
    assert seen[0]["MASTER_PORT"] == seen[1]["MASTER_PORT"]
    assert seen[0]["MASTER_ADDR"] == "127.0.0.1"
    assert [one["group"] for one in seen] == [one["pid"] for one in seen], "each rank leads a group of its own"
    assert all(one["group"] != os.getpgid(0) for one in seen)
    assert (program / "logs" / "rank-1.log").read_text() == "rank 1 speaks\n"


@pytest.mark.parametrize(("what", "status"), [("fail", 79), ("killed", -9)])
def test_a_dead_rank_ends_the_others(program: Path, what: str, status: int) -> None:
    with start(program, what) as ranks:
        dead = wait(ranks)
        assert dead is not None
        assert (dead.rank, dead.status) == (1, status)
        assert dead.last_words() == "rank 1 speaks"
        assert not any(is_alive(pid) for pid in ranks.pids)


@pytest.mark.parametrize(("what", "statuses"), [("graceful", {75}), ("stubborn", {-9})])
def test_stop_asks_first_and_then_kills(program: Path, what: str, statuses: set[int]) -> None:
    with start(program, what) as ranks:
        until(lambda: ready(program))
        ranks.stop(grace_s=5 if what == "graceful" else 0.3)
        _, dead = ranks.poll()
        assert dead is not None
        assert {dead.status} == statuses


def test_leaving_the_block_by_an_error_ends_the_ranks(program: Path) -> None:
    def supervise_badly() -> None:
        with ranks:
            until(lambda: ready(program))
            raise RuntimeError("supervisor has a bug")

    ranks = start(program, "graceful")
    with pytest.raises(RuntimeError, match="supervisor"):
        supervise_badly()
    assert not any(is_alive(pid) for pid in ranks.pids)


SUPERVISOR = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from components.launch.warm import start_warm
from test_launch_local import start
with start(Path(sys.argv[1]), "stubborn", start_warm, MMFS_WARM_SOCKET=sys.argv[2]):
    time.sleep(600)
"""


def supervise(folder: Path, socket: str = "") -> subprocess.Popen[bytes]:
    here = str(Path(__file__).parent)
    own = {**environment(), "PYTHONPATH": f"{Path.cwd()}{os.pathsep}{here}{os.pathsep}{folder}"}
    return subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(folder), socket, here], env=own)


def test_ranks_die_with_their_supervisor(program: Path) -> None:
    supervisor = supervise(program)
    until(lambda: ready(program))
    supervisor.kill()
    supervisor.wait()
    until(lambda: not any(is_alive(pid) for pid in pids(program)))


def test_forked_ranks_are_like_started_ones(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {**environment(), "PYTHONPATH": f"{environment()['PYTHONPATH']}{os.pathsep}{program}"}
    log = program / "zygote.log"
    with warm_ranks(own, Path.cwd(), log) as variables:
        with start(program, "succeed", start_warm, COLOUR="red", **variables) as ranks:  # which waits for the imports
            assert wait(ranks) is None
        seen = json.loads((program / "1.json").read_text())
        assert seen["parent"] != os.getpid(), log.read_text()
        assert (seen["RANK"], seen["COLOUR"]) == ("1", "red")
        assert seen["group"] == seen["pid"]
        assert (program / "logs" / "rank-0.log").read_text() == "rank 0 speaks\n"
        parent = Path(f"/proc/{seen['pid']}")
        assert not parent.exists(), "the zygote has reaped it"

        with start(program, "killed", start_warm, **variables) as ranks:
            dead = wait(ranks)
            assert dead is not None
            assert (dead.rank, dead.status) == (1, -9)
            assert not any(is_alive(pid) for pid in ranks.pids)

        for ready_file in program.glob("ready-*"):
            ready_file.unlink()
        supervisor = supervise(program, variables[SOCKET_VARIABLE])
        until(lambda: ready(program))
        supervisor.kill()
        supervisor.wait()
        until(lambda: not any(is_alive(pid) for pid in pids(program)))

        for ready_file in program.glob("ready-*"):
            ready_file.unlink()
        ranks = start(program, "stubborn", start_warm, **variables)
        until(lambda: ready(program))
    dead = wait(ranks)  # the zygote is gone, and its ranks with it
    assert dead is not None
    assert dead.status == -9
    until(lambda: not any(is_alive(pid) for pid in ranks.pids))


def test_without_a_zygote_ranks_are_started_afresh(program: Path, tmp_path: Path) -> None:
    with start(program, "succeed", start_warm, **{SOCKET_VARIABLE: str(tmp_path / "nobody.sock")}) as ranks:
        assert wait(ranks) is None
    assert json.loads((program / "0.json").read_text())["parent"] == os.getpid()


def test_a_zygote_that_dies_while_it_imports_is_not_waited_for(program: Path) -> None:
    (program / "torch.py").write_text("raise ImportError('broken')")
    own = {**environment(), "PYTHONPATH": str(program)}
    with warm_ranks(own, Path.cwd(), program / "zygote.log") as variables, start(program, "succeed", start_warm, **variables) as ranks:
        assert wait(ranks) is None
    assert json.loads((program / "0.json").read_text())["parent"] == os.getpid()


def test_the_signal_of_the_cause_is_blamed_before_the_complaints_of_its_peers(tmp_path: Path) -> None:
    class Ended:
        def __init__(self, pid: int, status: int) -> None:
            self.pid, self._status = pid, status

        def poll(self) -> int:
            return self._status

    logs = [tmp_path / "0.log", tmp_path / "1.log"]
    _, dead = RankGroup([Ended(2**22 + 1, 69), Ended(2**22 + 2, -signal.SIGKILL)], logs).poll()
    assert dead is not None
    assert dead.rank == 1
