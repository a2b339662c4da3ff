"""The generating program: `python -m components.evaluation.generate FOLDER`, one process a rank.

It answers its share of FOLDER/manifest.json batch by batch, each on disk before the next; what was answered before is not asked again.
"""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from components.data.documents import LoadedDocument, TextItem
from components.data.index import Index
from components.data.places import ShardPlaces
from components.data.reader import evaluation_documents
from components.data.tokenizer import Tokenizer
from components.data.transforms import as_float, square
from components.evaluation.answer_log import Answer, AnswerLog, PictureAnswer, TextAnswer
from components.evaluation.job import Job, unanswered
from components.evaluation.manifest import MANIFEST_FILE, Manifest, Request
from components.metrics import kinds_of
from components.run.failures import FailureClass
from model.build import check_sampling, load_model
from model.generation import Generated, GeneratedImage, GeneratedText, GenerationOptions, generate
from model.mm_interleaved import MMInterleaved
from model.prompts import Prompt


def main(folder: Path) -> None:
    """Answer what this rank has not answered yet."""
    rank = int(os.environ.get("RANK", "0"))
    manifest, job = Manifest.read(folder / MANIFEST_FILE), Job.read(folder)
    if not (batches := unanswered(folder, manifest, job, rank)):
        return
    tokenizer = Index(Path(job.index)).tokenizer
    documents = _documents(manifest, job)
    options = generation_options(manifest)
    device = _prepare_device(job, rank)
    models: dict[str, MMInterleaved] = {}
    with AnswerLog(folder, rank) as log:
        for batch in batches:
            if batch[0].answering not in models:
                loaded = load_model(Path(job.models[batch[0].answering]))
                check_sampling(loaded.config)
                tokenizer.check_fits(loaded.config.vocab_size, f"the model {batch[0].answering}")
                models[batch[0].answering] = loaded.to(device)
            model = models[batch[0].answering]
            prompts = [prompt(request, documents[request.document], tokenizer, model.config.shape.image_px) for request in batch]
            generated = generate(model, prompts, options[batch[0].mode])
            log.append([_answer(request, pieces, tokenizer, log) for request, pieces in zip(batch, generated, strict=True)])


def generation_options(manifest: Manifest) -> dict[str, GenerationOptions]:
    """The model's options for each mode of asking."""
    values = dict(manifest.sampling)
    pictures = values.pop("max_pictures")
    text = GenerationOptions(mode="text", max_images=pictures, seed=manifest.seed, **values)
    document = replace(text, mode="interleaved", max_new_tokens=text.max_new_tokens * (pictures + 1))
    return {"text": text, "picture": replace(text, mode="image"), "document": document}


def prompt(request: Request, loaded: LoadedDocument, tokenizer: Tokenizer, px: int) -> Prompt:
    """The first `items` items of the document as the model reads them."""
    pictures = iter(loaded.pictures)
    items: list[tuple[int, ...] | torch.Tensor] = []
    for item in loaded.document.items[: request.items]:
        if isinstance(item, TextItem):
            items.append(tuple(tokenizer.encode(item.text)))
        else:
            items.append(torch.from_numpy(as_float(square(next(pictures), px)[None])[0]))
    return Prompt(request.draw, tuple(items))


def _answer(request: Request, pieces: Generated, tokenizer: Tokenizer, log: AnswerLog) -> Answer:
    items: list[TextAnswer | PictureAnswer] = []
    for piece in pieces:
        if isinstance(piece, GeneratedText):
            if piece.ids:
                items.append(TextAnswer(text=tokenizer.decode(piece.ids)))
        else:
            number = sum(isinstance(item, PictureAnswer) for item in items)
            items.append(log.keep(request.id, number, _bytes(piece)))
    last = pieces[-1] if pieces else None
    return Answer(
        request=request.id, items=tuple(items), ended=request.mode == "picture" or (isinstance(last, GeneratedText) and last.ended)
    )


def _bytes(piece: GeneratedImage) -> np.ndarray:
    """uint8 [h, w, 3]."""
    return (piece.pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _documents(manifest: Manifest, job: Job) -> dict[str, LoadedDocument]:
    wanted = {request.document for request in manifest.requests}
    shards = ShardPlaces.model_validate(job.shards)
    loaded = [one for kind in kinds_of(manifest.task) for one in evaluation_documents(Path(job.index), shards, kind)]
    return {one.document.id: one for one in loaded if one.document.id in wanted}


def _prepare_device(job: Job, rank: int) -> torch.device:
    """Share the cores among the ranks, and in deterministic mode fix the algorithms, so that a rerun sums in the same order."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // job.ranks))
    if job.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cuda", rank % torch.cuda.device_count()) if job.device == "cuda" else torch.device("cpu")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (MemoryError, torch.OutOfMemoryError):
        traceback.print_exc()
        sys.exit(FailureClass.OUT_OF_MEMORY.exit_code)
