"""A rank program with a network of a few hundred parameters in place of the model; everything else is the real thing."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from components.training.job import Job
from components.training.objective import Targets
from components.training.rank import leave, run_rank

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
        text = (self.text(hidden) - rows.values.flip(-1)).square().mean(-1).sum()
        pictures = rows.values[:, 0]
        image = (self.decoder(self.norm(pictures)) - pictures).square().mean(-1) * rows.pictured
        return Output(text + (Explosion.apply(self.norm.weight[0]) if rows.explodes else 0.0), image.sum())


def batch_of(step: int, rank: int, ranks: int, micro: int) -> tuple[tuple[Rows], Targets]:
    """Every `hands`-th of a step's 8 rows; half of the rows have a picture with a loss."""
    hands = 8 // int(os.environ.get("ROWS_AT_ONCE", "4"))
    hand = micro * ranks + rank
    if step == int(os.environ.get("POISON_AT", "-1")):
        return _rows([torch.full((4, WIDTH), torch.nan)], [True], False)
    if kill := os.environ.get("KILL_AT"):
        kill(kill, step)
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


def kill(kill: str, step: int) -> None:
    """KILL_AT=step:rank:signal, once: the marker file says that it has happened."""
    at, rank, number = map(int, kill.split(":"))
    marker = Path(sys.argv[1]) / "killed"
    if step == at and rank == int(os.environ["RANK"]) and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.Signals(number))


def save(network: nn.Module, folder: Path) -> None:
    save_file({name: value.detach().clone().contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors")


def standin(job: Job) -> tuple[nn.Module, object, object]:
    torch.manual_seed(job.seed)
    return Network(), batch_of, save


if __name__ == "__main__":
    leave(run_rank(Path(sys.argv[1]), standin))
