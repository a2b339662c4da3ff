"""The rank program of benchmarks.training: beside each step of the product the same is taken bare, in the same process; both are timed.

A step of the product runs from where the bare one before it ended to where the next one begins: making and moving the batch, Lightning,
the engine, the meter, the log and a checkpoint are all in it. The bare one has the batch in hand and does what cannot be left out: forward,
backward, clipping, AdamW.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from components.training.job import Job
from components.training.objective import Targets
from components.training.optimizer import build_optimizer, freeze, schedule
from components.training.parts import mm_interleaved
from components.training.rank import leave, run_rank

AHEAD = 2
"""Lightning asks for a batch before it trains on the one before: when it asks again, a step has ended."""


def timings_file(work: Path, rank: int) -> Path:
    """Where a rank leaves its timings."""
    return work / f"timings-{rank}.json"


@dataclass(frozen=True)
class Timing:
    """Seconds of one step by the product and bare, by the clock and of all threads of the process; the loss of the bare one."""

    step: int
    product: float
    product_cpu: float
    bare: float
    bare_cpu: float
    loss: float


class Twin:
    """The bare training of a copy of the network."""

    def __init__(self, network: nn.Module, job: Job) -> None:
        self._network = copy.deepcopy(network)
        freeze(self._network, job.train.freeze)
        self._train = job.train
        self._weights = {"text_weight": job.text_loss_weight, "image_weight": job.image_loss_weight}
        self._optimizer = build_optimizer(self._network, job.train)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._factor = schedule(job.train)
        self._trained = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def step(self, step: int, arguments: tuple[Any, ...], own: Targets) -> torch.Tensor:
        """The loss of the step whose batch this is."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._factor(step)
        output = self._network(*arguments, **self._weights)
        text, image = output.text_loss_sum / max(own.text, 1), output.image_loss_sum / max(own.images, 1)
        loss: torch.Tensor = self._weights["text_weight"] * text + self._weights["image_weight"] * image
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._trained, self._train.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()


class Beside:
    """Called when the product asks for a batch: the step before has ended, and its twin is taken.

    Every other twin is taken one step early, before the product's: whoever has a batch first compiles oneDNN's operations for its number
    of pictures, and both must.
    """

    def __init__(self, twin: Twin, file: Path) -> None:
        self._twin = twin
        self._file = file
        self._batches: deque[tuple[int, tuple[Any, ...], Targets]] = deque()
        self._product: dict[int, tuple[float, float]] = {}
        self._bare: dict[int, tuple[float, float, float]] = {}
        self._asked = 0
        self._since = (time.perf_counter(), time.process_time())

    def turn(self) -> None:
        self._product[self._asked - AHEAD] = self._elapsed()
        if self._asked >= AHEAD and self._asked % 2 == 0:
            while self._batches:
                self._take(*self._batches.popleft())
            every = [Timing(step, *self._product[step], *self._bare[step]) for step in sorted(self._product.keys() & self._bare.keys())]
            self._file.write_text(json.dumps([asdict(timing) for timing in every]), encoding="utf-8")
        self._asked += 1
        self._since = (time.perf_counter(), time.process_time())

    def _take(self, step: int, arguments: tuple[Any, ...], own: Targets) -> None:
        self._since = (time.perf_counter(), time.process_time())
        loss = self._twin.step(step, arguments, own)
        self._bare[step] = (*self._elapsed(), float(loss))

    def keep(self, step: int, made: tuple[tuple[Any, ...], Targets]) -> None:
        self._batches.append((step, *made))

    def _elapsed(self) -> tuple[float, float]:
        wall, cpu = self._since
        return time.perf_counter() - wall, time.process_time() - cpu


def timed(job: Job) -> Any:
    """The parts of the real rank, with a twin beside them."""
    network, batch_of, save, *rest = mm_interleaved(job)
    beside = Beside(Twin(network, job), timings_file(job.work, int(os.environ["RANK"])))

    def batch(step: int, rank: int, ranks: int, micro: int) -> tuple[tuple[Any, ...], Targets]:
        beside.turn()
        made = batch_of(step, rank, ranks, micro)
        beside.keep(step, made)
        return made

    return network, batch, save, *rest


if __name__ == "__main__":
    leave(run_rank(Path(sys.argv[1]), timed))
