"""A small corpus that waits for captions, and a captioner that is no model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.data.captioning.request import Reply, Request
from components.data.pictures import encode_png

PICTURES = [encode_png(np.full((20, 30, 3), shade, np.uint8) + np.arange(3, dtype=np.uint8) * shade) for shade in (0, 40, 80, 120)]


class Echo:
    """A captioner that tells the digest of a picture; after `until` pictures it is interrupted."""

    name, digest, usual_prompt, converses = "echo:1", "0" * 64, "", False

    def __init__(self, until: int = 10**9, says: Callable[[Request], Reply] | None = None) -> None:
        self.until, self.says, self.asked = until, says, 0

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        if self.asked + len(requests) > self.until:
            raise KeyboardInterrupt
        self.asked += len(requests)
        return [
            self.says(one) if self.says else Reply(f"picture {PICTURES.index(one.pictures[0])}", seconds=0.5, usd=0.25) for one in requests
        ]


def waiting(name: str, picture: int, **more: Any) -> dict[str, Any]:
    values = {
        "id": name,
        "source": "own",
        "kind": "caption",
        "split": "train",
        "licence": "CC0-1.0",
        "origin": "natural",
        "items": [{"type": "image", "id": "0", "path": f"{picture}.png"}],
        "fields": {"references": [], "objects": ["temple"]},
    }
    return values | more


def write_corpus(folder: Path, documents: Sequence[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    for number, data in enumerate(PICTURES):
        (folder / f"{number}.png").write_bytes(data)
    (folder / "documents.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    return folder
