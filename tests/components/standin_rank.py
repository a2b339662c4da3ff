"""A rank program with a network of a few hundred parameters in place of the model; everything else is the real thing."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from components.training.job import Job
from components.training.rank import run_rank

WIDTH = 8


@dataclass(frozen=True)
class Rows:
    values: Tensor
    attention_mask: Tensor
    targets_mask: Tensor
    images: Tensor
    image_loss_mask: Tensor

    def to(self, device: torch.device) -> Rows:
        return Rows(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class Output:
    text_loss_sum: Tensor
    image_loss_sum: Tensor


class Network(nn.Module):
    """Two branches: one for text, one that only runs where a picture has a loss; dropout draws from the rank's random state."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.text = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, WIDTH))
        self.decoder = nn.Linear(WIDTH, WIDTH)

    def forward(self, rows: Rows) -> Output:
        hidden = self.norm(rows.values)
        text = ((self.text(hidden) - rows.values.flip(-1)).square().mean(-1) * rows.targets_mask).sum()
        chosen = rows.images[rows.image_loss_mask]
        image = (self.decoder(self.norm(chosen)) - chosen).square().mean(-1).sum() if len(chosen) else text * 0.0
        return Output(text, image)


def batch_of(step: int, part: int, parts: int) -> Rows:
    """Rows `part`, `part + parts`, ... of a step's 8 rows; half of the rows have no picture with a loss."""
    if (Path.cwd() / "poison").exists() and step == 3:
        return _rows([torch.full((4, WIDTH), torch.nan)], [True])
    if kill := os.environ.get("KILL_AT"):
        _kill(kill, step)
    generators = [torch.Generator().manual_seed(1000 * step + row) for row in range(part, 8, parts)]
    return _rows([torch.randn(4, WIDTH, generator=generator) for generator in generators], [row % 2 == 0 for row in range(part, 8, parts)])


def _rows(values: list[Tensor], pictured: list[bool]) -> Rows:
    stacked = torch.stack(values)
    mask = torch.ones(stacked.shape[:2], dtype=torch.bool)
    return Rows(stacked, mask, mask, stacked[:, 0], torch.tensor(pictured))


def _kill(kill: str, step: int) -> None:
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
    status = run_rank(Path(sys.argv[1]), standin)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
