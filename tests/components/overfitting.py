"""Sixteen documents learned by heart: real stream, model, training step, export and sampling at the smallest preset, in this process."""

from __future__ import annotations

import math
import os
import signal
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from stage_world import Line, smoke_values
from torch import Tensor

from components.architecture import architecture
from components.data.index import Index
from components.data.layout import SWAPPED_KINDS, Piece, pieces_of, swap
from components.data.reader import DocumentReader
from components.data.transforms import as_float, square
from components.params import merge, parse
from components.training.fit import fit
from components.training.job import Job
from components.training.parts import mm_interleaved
from model.batch import InterleavedBatch
from model.build import load_model
from model.generation import GenerationOptions, generate_images
from model.mm_interleaved import MMInterleaved
from model.prompts import Prompt
from model.sequence import Layout

DOCUMENTS = 16
_LAST = 4
"""Steps at the end that losses are measured on."""
_FASTER = ("embed_tokens", "text_decoder", "attentions", "upsamplers")
"""What learns faster: the words, and what of the UNet starts at next to nothing (`quiet_start`), though only there a picture is told
what to show."""


@dataclass(frozen=True)
class Family:
    """A family of recipes at the size of this test: what it is trained on and for how long."""

    kinds: Mapping[str, int]
    steps: int
    rows: int
    image_weight: float = 10.0
    learning_rate: float = 3e-3
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Learned:
    """Losses before and after, in nats a token and as mean squared errors, each a mean over the same rows, and the pictures.

    `best_text` is what a perfect memory of the set would have on these rows: where a text stands before its picture, or begins like
    another, which of the documents it is cannot be known. `drawn` and `pictures` [n, 3, px, px]: a sample and the truth of each picture
    that is trained and has a context; `documents` [n] which document it is of.
    """

    text: tuple[float, float]
    best_text: float
    image: tuple[float, float]
    drawn: Tensor
    pictures: Tensor
    documents: Tensor

    @property
    def errors(self) -> Tensor:
        """Mean squared error of each sample against each picture, [n, n]."""
        return (self.drawn[:, None] - self.pictures[None]).square().flatten(2).mean(-1)

    @property
    def psnr(self) -> Tensor:
        """Of each sample against its own picture, dB."""
        return -10 * self.errors.diagonal().log10()

    @property
    def recognised(self) -> float:
        """Share of the samples that are nearer to their own picture than to any picture of another document."""
        others = self.errors.masked_fill(self.documents[:, None] == self.documents[None], math.inf)
        return float((self.errors.diagonal() < others.min(1).values).float().mean())


def learn(family: Family, folder: Path) -> Learned:
    """Train a family and draw its pictures again. `folder` is empty."""
    job = _job(family, folder)
    untrained, batch_of, *_ = mm_interleaved(job)
    first = job.train.steps - _LAST
    last = [batch_of(step, 0, 1, 0)[0] for step in range(first, job.train.steps)]
    best = _best((batch_of(step, 0, 1, 0)[0] for step in range(job.train.steps)), first)
    before = _losses(untrained, last, job)
    with _alone():
        fit(job, *mm_interleaved(job)[:4])
    trained = load_model(job.export)
    after = _losses(trained, last, job)
    return Learned((before[0], after[0]), best, (before[1], after[1]), *_drawn(trained, job))


def _job(family: Family, folder: Path) -> Job:
    values = smoke_values()
    documents = {kind: family.kinds.get(kind, 0) for kind in values["data"]["documents"]}
    train = {
        "steps": family.steps,
        "rows_per_step": family.rows,
        "row_tokens": 128,
        "rows_of": "any",
        "mixture": {kind: float(count) for kind, count in documents.items()},
        "ranks": 1,
        "learning_rate": family.learning_rate,
        "warmup_steps": 20,
        "betas": [0.9, 0.99],
        "eps": 1e-8,
        "weight_decay": 0.0,
        "groups": [{"match": part, "learning_rate_factor": 5} for part in _FASTER],
        "checkpoint_every_steps": family.steps,
        "log_every_steps": family.steps,
        "telemetry": {"group_norms_every_steps": 0},
        "guard": {"spike_threshold": 0.0},
    }
    sections = {"data": {"documents": documents, **family.data}, "pretrain": train, "finetune": {"story": train}}
    values = merge(values, {"tasks": ["story"], **sections})
    params = parse(values)
    line = Line(folder, params)
    index = Index(line.paths.index)
    work = folder / "trained"
    work.mkdir()
    return Job(
        stage="pretrain",
        seed=0,
        deterministic=True,
        device="cpu",
        train=params.pretrain,
        patterns={},
        text_loss_weight=1.0,
        image_loss_weight=family.image_weight,
        condition_drop=0.0,  # what is drawn without a condition cannot be known by heart
        window_documents=64,
        model=architecture(params.model, index.tokenizer.vocab_size).to_dict(),
        initial=None,
        resume=None,
        index=line.paths.index,
        shards=line.places,
        work=work,
    )


@contextmanager
def _alone() -> Iterator[None]:
    """As the only rank, in a process that goes on afterwards."""
    before, rank = signal.getsignal(signal.SIGTERM), os.environ.get("RANK")
    os.environ["RANK"] = "0"
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        os.environ.pop("RANK") if rank is None else os.environ.update(RANK=rank)


@torch.no_grad()
def _losses(network: MMInterleaved, batches: list[tuple[InterleavedBatch, Layout]], job: Job) -> tuple[float, float]:
    """Mean text and image loss over batches."""
    outputs = [network(*one, text_weight=job.text_loss_weight, image_weight=job.image_loss_weight) for one in batches]
    text = sum(float(one.text_loss_sum) for one in outputs) / max(1.0, sum(float(one.text_count) for one in outputs))
    return text, sum(float(one.image_loss_sum) for one in outputs) / max(1.0, sum(float(one.image_count) for one in outputs))


def _best(batches: Iterable[tuple[InterleavedBatch, Layout]], first: int) -> float:
    """The text loss on the batches from `first` on of who knows how often each token follows what stands before it in all batches."""
    follows: dict[int, Counter[int]] = defaultdict(Counter)
    asked: list[tuple[int, int]] = []
    for number, (batch, layout) in enumerate(batches):
        targets = set((layout.predict + 1).tolist())
        columns = batch.text_ids.shape[1]
        pictures = {
            int(row) * columns + int(column): hash(picture.numpy().tobytes())
            for row, column, picture in zip(batch.image_row, batch.image_column, batch.images, strict=True)
        }
        for row, (ids, documents) in enumerate(zip(batch.text_ids.tolist(), batch.document_ids.tolist(), strict=True)):
            before, document = 0, 0
            for column, (token, own) in enumerate(zip(ids, documents, strict=True)):
                place = row * columns + column
                before, document = (0, own) if own != document else (before, document)
                if own and place in targets:
                    follows[before][token] += 1
                    asked += [(before, token)] if number >= first else []
                before = hash((before, token, pictures.get(place)))
    return -sum(math.log(follows[before][token] / follows[before].total()) for before, token in asked) / max(1, len(asked))


def _drawn(network: MMInterleaved, job: Job) -> tuple[Tensor, Tensor, Tensor]:
    """Samples of the trained pictures that have a context, the pictures themselves, and the number of the document of each."""
    index, px = Index(job.index), network.config.shape.image_px
    reader = DocumentReader(index, job.shards)
    prompts: list[Prompt] = []
    pictures: list[Tensor] = []
    documents: list[int] = []
    for number, row in enumerate(row for kind in index.kinds("train") for row in index.rows("train", kind)):
        loaded = reader.load(row)
        pieces: Sequence[Piece] = pieces_of(loaded.document, index.tokenizer)
        if loaded.document.kind in SWAPPED_KINDS:  # trained in both orders, drawn in the one that tells what to draw
            pieces = swap(pieces, lambda image: True)
        items: list[tuple[int, ...] | Tensor] = []
        for piece in pieces:
            if piece.image is None:
                items.append(piece.ids)
                continue
            picture = torch.from_numpy(as_float(square(loaded.pictures[piece.image], px)[None])[0])
            if piece.loss and items:
                prompts.append(Prompt(f"{row.id}-{len(items)}", tuple(items)))
                pictures.append(picture)
                documents.append(number)
            items.append(picture)
    reader.close()
    if not prompts or not job.image_loss_weight:
        empty = torch.zeros(0, 3, px, px)
        return empty, empty, torch.zeros(0, dtype=torch.int64)
    options = GenerationOptions(mode="image", steps=10, guidance=1.0, seed=0)
    return generate_images(network, prompts, options), torch.stack(pictures), torch.tensor(documents)
