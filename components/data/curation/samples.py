"""A window with its texts as a document and as a record of the manifest. Pure; pictures keep the names of their files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from components.curation_params import CurationParams
from components.data.curation.record import Block, Record, document_sha256
from components.data.curation.units import Cost, Cut, CutFrame, Sample, ToldVideo
from components.data.documents import Document, Facts, ImageItem, TextItem

IMAGES = "images"
Role = Literal["global", "frame", "frame_caption", "diff"]
Level = Literal["made", "waiting", "unavailable"]


def blocks(unit: str, frames: Sequence[CutFrame], sample: Sample | None) -> list[Block]:
    """Reading order: the whole; the first frame and its caption; what changes, the next frame and its caption; and so on."""
    found = [_text("global", sample.whole)] if sample is not None and sample.whole is not None else []
    for number, frame in enumerate(frames):
        if sample is not None and number and sample.changes:
            found.append(_text("diff", sample.changes[number - 1]))
        path = f"{IMAGES}/{unit}/{frame.file}"
        found.append(Block(type="image", role="frame", content=path, time_s=frame.time_s, filters=frame.filters))
        if sample is not None and sample.frames:
            found.append(_text("frame_caption", sample.frames[number]))
    return found


def _text(role: Role, text: str) -> Block:
    return Block(type="text", role=role, content=text)


def sample_of(cut: Cut, window: str, unit: str, told: ToldVideo | None, cost: Cost, params: CurationParams) -> tuple[Document, Record]:
    """The document and the record of a window, whose texts are told or wait."""
    sample = told.samples[window] if told else None
    frames = [cut.windows[window][number] for number in sample.kept] if sample else list(cut.windows[window])
    own = blocks(unit, frames, sample)
    digests = {f"{IMAGES}/{unit}/{frame.file}": frame.sha256 for frame in frames}
    items: list[TextItem | ImageItem] = []
    for block in own:
        if block.type == "text":
            items.append(TextItem(text=block.content, facts={"role": block.role}))
        else:
            number = sum(isinstance(item, ImageItem) for item in items)
            facts: Facts = {"time_s": block.time_s or 0.0}
            items.append(ImageItem(id=str(number), path=block.content, sha256=digests[block.content], facts=facts))
    document = Document(
        id=f"{params.name}-{unit}-{window}",
        source=params.name,
        kind="interleaved",
        split=params.split,
        licence=params.licence,
        origin="automated",
        items=tuple(items),
        fields={} if sample else {"waiting": True},
        facts=_facts(window, cut, sample, told, cost),
    )
    record = Record(
        id=document.id,
        source=params.name,
        licence=params.licence,
        global_text=sample.whole if sample else None,
        blocks=tuple(own),
        levels=_levels(told),
        rounds=sample.rounds if sample else (),
        judge=sample.judged if sample else None,
        parent_ids=(cut.sha256,),
        tool_versions=cut.tool_versions,
        captioner=told.captioner if told else None,
        captioner_digest=told.captioner_digest if told else None,
        document_sha256=document_sha256(document),
    )
    return document, record


def _levels(told: ToldVideo | None) -> dict[str, Level]:
    if told is None:
        return {"global": "waiting", "frame": "waiting", "cross": "waiting"}
    rest: Level = "made" if told.converses else "unavailable"
    return {"global": rest, "frame": "made", "cross": rest}


def _facts(window: str, cut: Cut, sample: Sample | None, told: ToldVideo | None, cost: Cost) -> Facts:
    seconds, usd = cost.samples.get(window, (0.0, None))
    facts: Facts = {"cost_seconds": round(cost.cut_seconds / max(1, len(cut.windows)) + seconds, 6)}
    if usd is not None:
        facts["cost_usd"] = round(usd, 9)
    if told is not None and sample is not None:
        facts |= {"captioner": told.captioner, "captioner_digest": told.captioner_digest}
        if sample.alignment is not None:
            facts["alignment"] = sample.alignment
        if sample.judged is not None:
            facts["judge_score"] = sample.judged.score
    return facts
