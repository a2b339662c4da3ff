"""Samples of a checkpoint: held-out documents continued by the model, beside the truth, as one picture for people."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import chain, islice, zip_longest
from pathlib import Path

import numpy as np
import torch

from components.data.documents import LoadedDocument, TextItem
from components.data.index import Index
from components.data.pictures import encode_png
from components.data.reader import DocumentReader
from components.data.tokenizer import Tokenizer
from components.evaluation.generate import prompt
from components.evaluation.illustration import Cell, Illustration, Row, cell, sheet
from components.evaluation.manifest import Request
from components.run.filetree import write_whole
from components.training.checkpoints.export import export_checkpoint
from components.training.job import JOB_FILE, Job
from model.build import load_model
from model.generation import Generated, GeneratedImage, GenerationOptions, generate

_TOKENS, _PICTURES, _DENOISING_STEPS = 48, 2, 10
_LOOKED_AT = 64
"""Held-out documents of a name among which one that can be continued is sought."""


def draw(checkpoint: Path, target: Path) -> None:
    """Write a PNG of what the weights of a checkpoint say to the same few documents each time. Works on the CPU, with one thread."""
    torch.set_num_threads(1)
    job = Job.model_validate_json((checkpoint / JOB_FILE).read_text(encoding="utf-8"))
    index = Index(job.index)
    reader = DocumentReader(index, job.shards)
    documents = chosen(index, reader, job)
    reader.close()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".weights-") as scratch:
        export_checkpoint(checkpoint, Path(scratch) / "model")
        model = load_model(Path(scratch) / "model").eval()
    asked = [_request(document) for document in documents]
    px = model.config.shape.image_px
    prompts = [prompt(request, document, index.tokenizer, px) for request, document in zip(asked, documents, strict=True)]
    options = GenerationOptions(max_new_tokens=_TOKENS, max_images=_PICTURES, steps=_DENOISING_STEPS, seed=job.seed)
    said = generate(model, prompts, options)
    rows = [row for document, pieces in zip(documents, said, strict=True) for row in _rows(document, pieces, index.tokenizer)]
    write_whole(target, sheet(Illustration(title=target.stem, rows=tuple(rows))))


def chosen(index: Index, reader: DocumentReader, job: Job) -> list[LoadedDocument]:
    """The documents: one of each name of the mixture in turn, the first that give something to go on from."""
    most = job.train.telemetry.sample_documents
    of_names = [islice(_continued(index, reader, name), most) for name in job.train.names]
    in_turn = [document for document in chain.from_iterable(zip_longest(*of_names)) if document is not None]
    return list({one.document.id: one for one in in_turn}.values())[:most]


def _continued(index: Index, reader: DocumentReader, name: str) -> Iterator[LoadedDocument]:
    selection = index.select("evaluation", name)
    for number in selection[np.arange(min(len(selection), _LOOKED_AT))].tolist():
        loaded = reader.load(index.row(number))
        if 0 < loaded.document.prompt_items < len(loaded.document.items):
            yield loaded


def _request(loaded: LoadedDocument) -> Request:
    document = loaded.document
    return Request(document.id, document.id, document.kind, "document", "task", document.prompt_items, "", f"{document.id}/sample")


def _rows(loaded: LoadedDocument, said: Generated, tokenizer: Tokenizer) -> list[Row]:
    """The truth, and below it what was given and what the model went on with."""
    pictures = iter(loaded.pictures)
    truth = [cell(item.text) if isinstance(item, TextItem) else cell(png=encode_png(next(pictures))) for item in loaded.document.items]
    given = loaded.document.prompt_items
    own = [_cell(piece, tokenizer) for piece in said] or [cell("(nothing)")]
    return [Row(label=loaded.document.kind, cells=tuple(truth)), Row(label="model", cells=(*truth[:given], *own))]


def _cell(piece: object, tokenizer: Tokenizer) -> Cell:
    if isinstance(piece, GeneratedImage):
        pixels = (piece.pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
        return cell(png=encode_png(pixels.contiguous().numpy()))
    ids = getattr(piece, "ids", ())
    return cell(tokenizer.decode(ids) or "(end)")
