"""Work done ahead by processes: in order, the same for any number, ended with its user, failures told as they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
from small_corpus import make_corpus

from components.data.documents import CorpusError
from components.data.index import Index
from components.data.keyed import generator
from components.data.loader import AHEAD, ahead
from components.data.reader import DocumentReader
from components.run.failures import FailureClass, StageError


def work(number: int) -> tuple[int, torch.Tensor, bytes]:
    return number, torch.full((64, 64), number), bytes([number])


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_results_come_in_order_for_any_number_of_processes(workers: int) -> None:
    found = list(ahead(work, range(5, 25), workers))
    assert [number for number, _, _ in found] == list(range(5, 25))
    assert all(torch.equal(tensor, torch.full((64, 64), number)) and data == bytes([number]) for number, tensor, data in found)
    assert not [
        child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE and _is_worker(child)
    ]


def _is_worker(child: psutil.Process) -> bool:
    return child.cmdline() == psutil.Process().cmdline()


def test_the_random_state_does_not_depend_on_the_processes() -> None:
    states = []
    for workers in (0, 2):
        torch.manual_seed(3)
        list(ahead(work, range(4), workers))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_no_more_is_made_ahead_than_the_memory_is_for(tmp_path: Path) -> None:
    def note(number: int) -> int:
        (tmp_path / str(number)).touch()
        return number

    results = ahead(note, range(100), 2)
    assert next(results) == 0
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) <= 2 * AHEAD + 2
    results.close()  # type: ignore[attr-defined]
    assert not [child for child in psutil.Process().children() if _is_worker(child) and child.status() != psutil.STATUS_ZOMBIE]


def _fails(error: Exception) -> Callable[[int], int]:
    def work(number: int) -> int:
        if number == 3:
            raise error
        return number

    return work


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failure_comes_at_its_turn_with_its_class(workers: int) -> None:
    results = ahead(_fails(CorpusError("shard 7 is gone; run `dvc pull`")), range(9), workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StageError, match=r"^shard 7 is gone; run `dvc pull`$") as caught:
        next(results)
    assert caught.value.failure is FailureClass.BAD_DATA
    with pytest.raises(ZeroDivisionError):
        list(ahead(_fails(ZeroDivisionError("oh")), range(9), workers))


def test_a_killed_process_is_told_as_such() -> None:
    def dies(number: int) -> int:
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with pytest.raises(StageError, match="a process that loads data was killed") as caught:
        list(ahead(dies, range(9), 1))
    assert caught.value.failure is FailureClass.OUT_OF_MEMORY
    assert "loader_workers" in caught.value.fix


PROGRAM = """
import os, signal, time
from components.data.loader import ahead
def work(number):
    time.sleep(0.05)
    return os.getpid()
results = ahead(work, range(10_000), 2)
print(*{next(results) for _ in range(8)}, flush=True)
signal.signal(signal.SIGTERM, lambda *_: None)
os.killpg(0, signal.SIGTERM)  # asks the rank to save: its loaders go on
print(*{next(results) for _ in range(8)}, flush=True)
time.sleep(60)
"""


def test_processes_outlive_a_request_to_save_and_die_with_their_rank() -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    before, after = ({int(pid) for pid in process.stdout.readline().split()} for _ in range(2))
    assert before == after
    assert len(before) == 2
    process.kill()
    process.wait(20)
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in before if psutil.pid_exists(pid)], 10)
    assert not alive


def test_documents_are_read_by_threads_as_by_one(tmp_path: Path) -> None:
    make_corpus(tmp_path, documents=20, shard_documents=2)  # more shards than are kept open
    index = Index(tmp_path / "index")
    rows = [row for kind in index.kinds("train") for row in index.rows("train", kind)] * 3
    rows = [rows[number] for number in generator(0, "test").permutation(len(rows))]
    reader = DocumentReader(index, tmp_path / "shards")
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda row: reader.stored(row)[0].id, rows))
    assert found == [row.id for row in rows]
