"""A rank program with a network of a few hundred parameters in place of the model; everything else is the real thing."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from components.data.cursor import Cursor
from components.training.checkpoints.resume import read_cursor
from components.training.guards.rollbacks import leave_out
from components.training.job import Job
from components.training.objective import Targets
from components.training.rank import leave, run_rank
from components.training.validation.validation import HeldOutBatch
from model.weights import write_weights

WIDTH = 8
BUILT: list[Network] = []


@dataclass(frozen=True)
class Rows:
    values: Tensor
    pictured: Tensor
    explodes: bool

    def to(self, device: torch.device) -> Rows:
        return Rows(self.values.to(device), self.pictured.to(device), self.explodes)


@dataclass(frozen=True)
class Output:
    text_loss_sum: Tensor
    image_loss_sum: Tensor
    text_losses: Tensor
    image_losses: Tensor
    predicted: Tensor


class Explosion(torch.autograd.Function):
    """Zero, with a gradient of infinity."""

    @staticmethod
    def forward(context: object, weight: Tensor) -> Tensor:
        return weight * 0.0

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return torch.full_like(gradient, torch.inf)


class Network(nn.Module):
    """Two branches: one for text, one that only runs where a picture has a loss; dropout draws from the rank's random state."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.text = nn.Sequential(
            nn.Linear(WIDTH, 16), nn.GELU(), nn.Dropout(0.0 if "NO_DROPOUT" in os.environ else 0.1), nn.Linear(16, WIDTH)
        )
        self.decoder = nn.Linear(WIDTH, WIDTH)
        self.before_explosion: str | None = None

    def forward(self, rows: Rows, *, text_weight: float, image_weight: float) -> Output:
        if rows.explodes:
            self.before_explosion = digest(self)
        values = rows.values.to(self.norm.weight.dtype)
        said = self.text(self.norm(values))
        each = (said - values.flip(-1)).square().mean(-1)
        text = each.sum()
        pictures = values[:, 0]
        image = (self.decoder(self.norm(pictures)) - pictures).square().mean(-1) * rows.pictured
        return Output(
            text + (Explosion.apply(self.norm.weight[0]) if rows.explodes else 0.0),
            image.sum(),
            each.detach().flatten(),
            image.detach(),
            said.detach().argmax(-1).flatten(),
        )


def digest(network: nn.Module) -> str:
    """Of what this rank has of the weights."""
    parts = [getattr(parameter, "ds_tensor", parameter).detach().float().numpy().tobytes() for parameter in network.parameters()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


@dataclass(frozen=True)
class Data:
    """Row r of step s is a draw; a draw decides everything about a row, so that leaving draws out leaves their rows out."""

    cursor: Cursor

    def draw(self, step: int, row: int) -> int:
        return self.cursor.draw(self.cursor.rows + 8 * (step - self.cursor.step) + row)

    def cursor_of(self, step: int) -> dict[str, object]:
        return Cursor(step, 8 * step, self.cursor.skipped).to_dict()

    def batch_of(self, step: int, rank: int, ranks: int, micro: int) -> tuple[tuple[Rows], Targets]:
        """Every `hands`-th of a step's 8 rows; half of the rows have a picture with a loss."""
        hands = 8 // int(os.environ.get("ROWS_AT_ONCE", "4"))
        hand = micro * ranks + rank
        if told := os.environ.get("KILL_AT"):
            kill_here(told, step)
        if step in _steps("KILL_ALWAYS_AT"):
            os.kill(os.getpid(), signal.SIGKILL)
        if hang := os.environ.get("HANG_AT"):
            _hang(hang, step)
        if "STEP_S" in os.environ:
            time.sleep(float(os.environ["STEP_S"]))
        draws = [self.draw(step, row) for row in range(hand, 8, hands)]
        poisoned = [draw // 8 in _steps("POISON_AT") for draw in draws]
        scales = [torch.nan if bad else 30.0 if draw // 8 in _steps("SPIKE_AT") else 1.0 for draw, bad in zip(draws, poisoned, strict=True)]
        generators = [torch.Generator().manual_seed(1000 * (draw // 8) + draw % 8) for draw in draws]
        return _rows(
            [torch.randn(4, WIDTH, generator=generator) * scale for generator, scale in zip(generators, scales, strict=True)],
            [draw % 2 == 0 for draw in draws],
            any(draw // 8 in _steps("EXPLODE_AT") for draw in draws),
        )


def _steps(variable: str) -> range:
    """The steps, from 0, that an environment variable names: `3` or `3-5`. They mean the rows that an undisturbed training has there."""
    first, _, last = os.environ.get(variable, "").partition("-")
    return range(int(first), int(last or first) + 1) if first else range(0)


def _rows(values: list[Tensor], pictured: list[bool], explodes: bool) -> tuple[tuple[Rows], Targets]:
    stacked = torch.stack(values)
    targets = Targets(text=stacked[..., 0].numel(), images=sum(pictured), tokens=stacked[..., 0].numel(), looked_at=len(values))
    return (Rows(stacked, torch.tensor(pictured), explodes),), targets


def kill_here(told: str, step: int) -> None:
    """KILL_AT=step:rank:signal, once: the marker file says that it has happened."""
    at, rank, number = map(int, told.split(":"))
    marker = Path(sys.argv[1]) / "killed"
    if step == at and rank == int(os.environ["RANK"]) and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.Signals(number))


class HeldOut:
    """Three batches of two rows that training never sees; the largest number is to be found; 0 ends a text, 1 begins a picture."""

    sources = ("caption", "story")
    buckets = (1, 2)
    stop, picture = 0, 1

    def batches(self, rank: int, ranks: int) -> Iterator[tuple[HeldOutBatch, bool]]:
        for turn in range(-(-3 // ranks)):
            number = turn * ranks + rank
            generator = torch.Generator().manual_seed(100_000 + number % 3)
            (rows,), _ = _rows([torch.randn(4, WIDTH, generator=generator) for _ in range(2)], [True, False], False)
            bucket = torch.tensor([0, 1])
            target = rows.values.flip(-1).argmax(-1).flatten()
            source = self.sources[number % 3 == 2]
            yield HeldOutBatch(source, (rows,), target, bucket.repeat_interleave(4), bucket, rows.pictured), number < 3


def _hang(hang: str, step: int) -> None:
    """HANG_AT=step:rank, once: the rank sleeps and answers no more."""
    at, rank = map(int, hang.split(":"))
    marker = Path(sys.argv[1]) / "hung"
    if step == at and rank == int(os.environ["RANK"]) and not marker.exists():
        marker.touch()
        time.sleep(600)


def save(network: nn.Module, folder: Path) -> None:
    write_weights([network.state_dict()], 1, folder)


def standin(job: Job) -> tuple[nn.Module, object, object, object, object]:
    torch.manual_seed(job.seed)
    data = Data(leave_out(read_cursor(job.resume), job.rollbacks))
    BUILT.append(Network())
    return BUILT[0], data.batch_of, save, data.cursor_of, HeldOut() if job.train.validation.every_steps else None


if __name__ == "__main__":
    (Path(sys.argv[1]) / f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
    status = run_rank(Path(sys.argv[1]), standin)
    for network in BUILT:
        if network.before_explosion is not None:
            same = digest(network) == network.before_explosion
            (Path(sys.argv[1]) / f"weights-{os.environ['RANK']}").write_text("as they were" if same else "changed")
    leave(status)
