"""A rank program with a network of a few hundred parameters in place of the model; everything else is the real thing."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from components.training.job import Job
from components.training.objective import Targets
from components.training.rank import leave, run_rank
from components.training.validation import HeldOutBatch

WIDTH = 8


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

    def forward(self, rows: Rows, *, text_weight: float, image_weight: float) -> Output:
        hidden = self.norm(rows.values)
        said = self.text(hidden)
        each = (said - rows.values.flip(-1)).square().mean(-1)
        text = each.sum()
        pictures = rows.values[:, 0]
        image = (self.decoder(self.norm(pictures)) - pictures).square().mean(-1) * rows.pictured
        return Output(
            text + (Explosion.apply(self.norm.weight[0]) if rows.explodes else 0.0),
            image.sum(),
            each.detach().flatten(),
            image.detach(),
            said.detach().argmax(-1).flatten(),
        )


def batch_of(step: int, rank: int, ranks: int, micro: int) -> tuple[tuple[Rows], Targets]:
    """Every `hands`-th of a step's 8 rows; half of the rows have a picture with a loss."""
    hands = 8 // int(os.environ.get("ROWS_AT_ONCE", "4"))
    hand = micro * ranks + rank
    if step == int(os.environ.get("POISON_AT", "-1")):
        return _rows([torch.full((4, WIDTH), torch.nan)], [True], False)
    if kill := os.environ.get("KILL_AT"):
        _kill(kill, step)
    chosen = range(hand, 8, hands)
    generators = [torch.Generator().manual_seed(1000 * step + row) for row in chosen]
    return _rows(
        [torch.randn(4, WIDTH, generator=generator) for generator in generators],
        [row % 2 == 0 for row in chosen],
        step == int(os.environ.get("EXPLODE_AT", "-1")),
    )


def _rows(values: list[Tensor], pictured: list[bool], explodes: bool) -> tuple[tuple[Rows], Targets]:
    stacked = torch.stack(values)
    targets = Targets(text=stacked[..., 0].numel(), images=sum(pictured), tokens=stacked[..., 0].numel(), looked_at=len(values))
    return (Rows(stacked, torch.tensor(pictured), explodes),), targets


def _kill(kill: str, step: int) -> None:
    """KILL_AT=step:rank:signal, once: the marker file says that it has happened."""
    at, rank, number = map(int, kill.split(":"))
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


def save(network: nn.Module, folder: Path) -> None:
    save_file({name: value.detach().clone().contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors")


def standin(job: Job) -> tuple[nn.Module, object, object, object, object]:
    torch.manual_seed(job.seed)
    return Network(), batch_of, save, no_cursor, HeldOut() if job.train.validation.every_steps else None


def no_cursor(step: int) -> dict[str, object]:
    return {}


if __name__ == "__main__":
    leave(run_rank(Path(sys.argv[1]), standin))
