"""Small corpora of pairs, interleaved documents and boxes, written as their publishers write them: for the tests of readers."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(width: int = 24, height: int = 16, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), (width, height, 90), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def members(shard: Path, *parts: tuple[str, bytes]) -> None:
    with tarfile.open(shard, "w") as tar:
        for name, data in parts:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def sample(key: str, image: bytes | None = None, caption: str = "a dog", **changes: Any) -> list[tuple[str, bytes]]:
    """A download as img2dataset's WebDatasetSampleWriter writes it: indented JSON, members in the order of their endings."""
    meta = {
        "url": f"http://x/{key}", "caption": caption, "key": key, "status": "success", "error_message": None, "width": 24, "height": 16,
        "original_width": 240, "original_height": 160, "exif": "{}", "sha256": "0" * 64, "similarity": 0.31, "punsafe": 0.01,
        "pwatermark": 0.2, "aesthetic": 5.5, "LICENSE": "?",
    }  # fmt: skip
    text = json.dumps(meta | changes, indent=4).encode()
    return [(f"{key}.jpg", image or picture()), (f"{key}.json", text), (f"{key}.txt", caption.encode())]


def table(path: Path, **columns: list[Any]) -> None:
    pq.write_table(pa.table(columns), path, row_group_size=2)


def captions(folder: Path, lines: list[bytes]) -> None:
    (folder / "images/a").mkdir(parents=True, exist_ok=True)
    (folder / "images/a/0.jpg").write_bytes(picture())
    (folder / "images/text.jpg").write_bytes(b"no picture")
    (folder / "0000000.txt").write_bytes(b"\n".join(lines) + b"\n")


def objects365(folder: Path, **changes: Any) -> None:
    places = ("patch0/objects365_v1_00000001.jpg", "v1/patch0/objects365_v1_00000002.jpg", "objects365_v1_00000003.jpg")
    for place in places:
        (folder / "train" / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / "train" / place).write_bytes(picture())
    image = {"license": 5, "url": "", "width": 24, "height": 16}
    boxes = [(1, 7, [2, 3, 10.25, 5]), (1, 8, [0, -0.5, 24, 16.5]), (3, 7, [20, 3, 10, 5]), (2, 7, [1, 1, 1, 1])]
    values = {
        "images": [
            {"id": number, "file_name": f"images/v1/patch0/objects365_v1_{number:08d}.jpg", **image} for number in (1, 2, 3, 4)
        ],
        "annotations": [
            {"id": number, "iscrowd": int(number == 0), "isfake": 0, "area": 1.0, "image_id": owner, "category_id": category, "bbox": box}
            for number, (owner, category, box) in enumerate(boxes)
        ],
        "categories": [{"id": 7, "name": "Person"}, {"id": 8, "name": "Wild Bird"}],
        "licenses": [],
    }  # fmt: skip
    (folder / "zhiyuan_objv2_train.json").write_text(json.dumps(values | changes))


def draw(folder: Path, **widths: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, width in widths.items():
        Image.new("RGB", (width, 16), (width, 90, 40)).save(folder / f"{name}.jpg")


def entry(name: str, sentence: Any, similarity: Any = 0.3, **changes: Any) -> dict[str, Any]:
    return {
        "image_name": f"{name}.jpg", "raw_url": f"http://x/{name}", "matched_text_index": sentence, "matched_sim": similarity,
        "face_detections": None,
    } | changes  # fmt: skip


def page(*images: dict[str, Any], sentences: Any = ("One.", "Two.", "Three."), **changes: Any) -> dict[str, Any]:
    matrix = [[0.1] * 3 for _ in images]
    values = {
        "image_info": list(images),
        "similarity_matrix": matrix,
        "text_list": sentences,
        "url": "http://x",
        "could_have_url_duplicate": 0,
    }
    return values | changes


def shard(folder: Path, name: str, *lines: dict[str, Any] | bytes, zipped: bool = True) -> None:
    data = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines) + b"\n"
    if not zipped:
        (folder / name).write_bytes(data)
        return
    with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)


def address(name: str) -> str:
    return f"http://x/{name}"


def digest(name: str) -> str:
    return hashlib.sha256(address(name).encode()).hexdigest()


def obelics_row(**changes: Any) -> dict[str, Any]:
    """A row as the card shows it: metadata and general_metadata are JSON in a string."""
    metadata = [{"src": address("a"), "alt_text": "a cat", "original_width": 200, "original_height": 100, "format": "jpeg"}, None, {}, None]
    return {
        "images": [address("a"), None, address("b"), None],
        "texts": [None, "First.", None, "Last."],
        "metadata": json.dumps(metadata),
        "general_metadata": json.dumps({"url": "http://page", "warc_filename": "x"}),
    } | changes


def omnicorpus_row(**changes: Any) -> dict[str, Any]:
    one = {"aesthetic_prob": 0.7, "unsafe_prob": 0.01, "bytes": 5, "height": 16, "width": 20, "img_url_sha": digest("a"), "p_hash": "p"}
    page = {"url": "http://page", "id": "1-2", "domain": ["x"], "porn_prob": 0.02, "fluency_prob": 0.9}
    return obelics_row() | {"metadata": [one, None, one | {"p_hash": None}, None], "general_metadata": page} | changes


def rows(path: Path, *values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(values)), path, row_group_size=2)
