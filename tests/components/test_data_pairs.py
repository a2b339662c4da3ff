"""Corpora of pairs and texts in their published forms: each record once, hostile ones refused by place and reason."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from corpus_reading import read
from pair_corpora import captions, members, objects365, picture, sample, table

from components.data.documents import CorpusError


def test_a_webdataset_of_img2dataset_gives_each_download_once_and_counts_the_failed(tmp_path: Path) -> None:
    first = sample("000000000", LICENSE="CC-BY-2.0") + sample("000000002", top_caption="a red dog", all_captions=["a red dog", "dog"])
    members(tmp_path / "00000.tar", *first)
    table(
        tmp_path / "00000.parquet",
        key=["000000000", "000000001", "000000002", "000000003"],
        status=["success", "failed_to_download", "success", "success"],
        error_message=[None, "HTTP Error 404", None, None],
        url=["http://x"] * 4,
    )
    members(tmp_path / "00001.tar", *sample("000010000", picture(kind="PNG")))
    documents, reasons, missing = read(tmp_path, "img2dataset")
    assert [one.document.id for one in documents] == ["c-00000-000000000", "c-00000-000000002", "c-00001-000010000"]
    assert documents[0].sizes == [(24, 16)] and documents[0].images == [picture()]
    document = documents[0].document
    assert (document.kind, document.licence, document.origin, document.texts) == ("caption", "CC-BY-2.0", "natural", ("a dog",))
    assert document.fields == {"references": ["a dog"]} and documents[1].document.licence == "CC0-1.0"
    facts = document.images[0].facts
    assert {name: facts[name] for name in ("similarity", "aesthetic", "nsfw", "watermark", "url", "original_width")} == {
        "similarity": 0.31, "aesthetic": 5.5, "nsfw": 0.01, "watermark": 0.2, "url": "http://x/000000000", "original_width": 240,
    }  # fmt: skip
    assert reasons == {
        "00000.parquet:000000001": "not downloaded: failed_to_download (HTTP Error 404)",
        "00000.parquet:000000003": "downloaded, as it says, but not in the tar",
    }
    assert set(missing) == set(reasons)


def test_columns_of_laion_coco_are_named_by_options(tmp_path: Path) -> None:
    captions = {"top_caption": "a red dog", "all_captions": ["a red dog", "dog"], "score": 0.4, "aesthetic": None}
    members(tmp_path / "0.tar", *sample("0", **captions), *sample("1"))
    options = {"caption": "top_caption", "references": "all_captions", "similarity": "score", "caption_model": "BLIP L/14"}
    (one,), reasons, _ = read(tmp_path, "img2dataset", **options)
    assert one.document.texts == ("a red dog",) and one.document.fields["references"] == ["a red dog", "dog"]
    assert one.document.origin == "automated" and one.document.images[0].facts["caption_model"] == "BLIP L/14"
    assert one.document.images[0].facts["similarity"] == 0.4 and "aesthetic" not in one.document.images[0].facts
    assert reasons == {"0.tar:1": "no top_caption"}
    bare, _, _ = read(tmp_path, "img2dataset", caption="")
    assert [one.document.texts for one in bare] == [(), ()] and bare[0].document.fields == {"references": []}


def test_files_of_img2dataset_give_what_its_tars_give(tmp_path: Path) -> None:
    rows: dict[str, list[Any]] = {}
    (tmp_path / "files/00000").mkdir(parents=True)
    (tmp_path / "tars").mkdir()
    parts: list[tuple[str, bytes]] = []
    for key in ("000000000", "000000001"):
        parts += sample(key)
        for name, data in sample(key):
            (tmp_path / "files/00000" / name).write_bytes(data)
        for column, value in json.loads(sample(key)[1][1]).items():
            rows.setdefault(column, []).append(value)
    members(tmp_path / "tars/00000.tar", *parts)
    table(tmp_path / "files/00000.parquet", **rows)
    files, tars = read(tmp_path / "files", "img2dataset"), read(tmp_path / "tars", "img2dataset")
    assert [one.document for one in files[0]] == [one.document for one in tars[0]]
    assert len(files[0]) == 2 and files[1:] == tars[1:] == ({}, [])
    del rows["caption"]
    rows["key"][1] = "../../secret"
    table(tmp_path / "files/00000.parquet", **rows)
    documents, reasons, _ = read(tmp_path / "files", "img2dataset")
    assert [one.document.texts for one in documents] == [("a dog",)]
    assert "must be 1 to 100 letters" in reasons["00000.parquet:2"]
    rows["key"] = ["000000000", "000000000"]
    table(tmp_path / "files/00000.parquet", **rows)
    assert read(tmp_path / "files", "img2dataset")[1] == {"00000.parquet:000000000": "this key was used before in the file"}


def hostile_samples() -> Iterator[tuple[str, list[tuple[str, bytes]], str]]:
    """Key, members, part of the reason."""
    jpg = picture()
    yield "nested", [("nested.tar", b"x" * 600)], "no picture in the sample, which has tar"
    yield "bare", [("bare.json", b"{}"), ("bare.txt", b"x")], "no picture"
    yield "both", [("both.jpg", jpg), ("both.png", picture(kind="PNG")), ("both.txt", b"x")], "two pictures"
    yield "cut", sample("cut", jpg[:-40]), "unreadable"
    yield "bomb", sample("bomb", picture(2000, 1000)), "more than max_image_pixels"
    yield "empty", sample("empty", caption=" "), "no caption"
    yield "long", sample("long", caption="x" * 100_001), "longer than max_text_bytes"
    yield "references", sample("references", all_captions=["x" * 100_001]), "longer than max_text_bytes"
    yield "bytes", [("bytes.jpg", jpg), ("bytes.txt", b"\xff\xfe")], "not UTF-8"
    yield "list", [*sample("list")[:1], ("list.json", b"[]")], "not a JSON object"
    yield "quotes", [*sample("quotes")[:1], ("quotes.json", b"{'url': 'x'}")], "double quotes"
    yield "nan", sample("nan", similarity=float("nan")), "NaN is not allowed"
    yield "infinite", [sample("infinite")[0], ("infinite.json", b'{"caption": "a", "similarity": 1e999}')], "similarity is inf"
    yield "word", sample("word", similarity="high"), "similarity must be a number, not a text"
    yield "truth", sample("truth", aesthetic=True), "aesthetic must be a number, not true or false"
    yield "kind", [*sample("kind")[:1], ("kind.json", b'{"caption": {"a": 1}}')], "caption must be a text or a list of texts"
    yield "half", [*sample("half")[:1], ("half.json", b'{"caption": "\\ud800"}')], "half of a surrogate pair"
    yield "failed", sample("failed", status="failed_to_resize"), "not downloaded: failed_to_resize"
    yield "address", sample("address", url="h" * 9000), "url has 9000 signs"
    yield "twice", [*sample("twice")[:1], ("twice.jpg", jpg)], "a second member of this name"
    yield "../out", sample("../out"), "leads out of the archive"


def test_every_hostile_sample_of_a_tar_is_refused_once_by_key_and_reason(tmp_path: Path) -> None:
    cases = list(hostile_samples())
    parts = [part for _, own, _ in cases for part in own]
    members(tmp_path / "0.tar", *sample("good"), *parts, *sample("good"), *sample("last"))
    with tarfile.open(tmp_path / "0.tar", "a") as tar:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        text = tarfile.TarInfo("link.txt")
        text.size = 3
        tar.addfile(text, io.BytesIO(b"abc"))
    documents, reasons, missing = read(tmp_path, "img2dataset", references="all_captions")
    assert [one.document.id for one in documents] == ["c-0-good", "c-0-last"]
    assert len(reasons) == len(cases) + 2
    for key, _, reason in cases:
        (found,) = [value for where, value in reasons.items() if where.removeprefix("0.tar:").removesuffix(".jpg") == key]
        assert reason in found
    assert reasons["0.tar:good"] == "this key was used before in the tar" and "link" in reasons["0.tar:link.jpg"]
    assert missing == ["0.tar:failed"]


def test_what_a_broken_off_tar_loses_is_counted(tmp_path: Path) -> None:
    keys = [f"{number:09d}" for number in range(4)]
    members(tmp_path / "0.tar", *(part for key in keys for part in sample(key)))
    whole = (tmp_path / "0.tar").read_bytes()
    table(tmp_path / "0.parquet", key=keys, status=["success"] * 4)
    seen = set()
    for end in range(0, len(whole), 256):
        (tmp_path / "0.tar").write_bytes(whole[:end])
        documents, reasons, _ = read(tmp_path, "img2dataset")
        lost = {where.partition(":")[2].partition(".")[0] for where in reasons} & set(keys)
        assert {one.document.id.removeprefix("c-0-") for one in documents} | lost == set(keys)
        assert len(documents) + len(lost) == 4
        assert any(where.startswith("0.tar") for where in reasons) or len(documents) == 4
        seen.add(len(documents))
    assert seen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("kind", ["img2dataset", "obelics", "omnicorpus"])
def test_unusable_parquet_files_are_refused_with_what_they_lose(tmp_path: Path, kind: str) -> None:
    rows = 200
    columns = {
        "key": [str(number) for number in range(rows)],
        "status": ["x"] * rows,
        "images": [["http://x"]] * rows,
        "texts": [[None]] * rows,
    }
    table(tmp_path / "good.parquet", **columns)
    data = (tmp_path / "good.parquet").read_bytes()
    (tmp_path / "good.parquet").unlink()
    (tmp_path / "broken.parquet").write_bytes(data[:200] + bytes(400) + data[600:])
    (tmp_path / "cut.parquet").write_bytes(data[:-100])
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "link.parquet").symlink_to("/etc/hostname")
    table(tmp_path / "wrong.parquet", a=["x"] * 7)
    documents, reasons, _ = read(tmp_path, kind)
    assert not documents
    assert "unreadable as parquet" in reasons["cut.parquet:1"] and "unreadable as parquet" in reasons["empty.parquet:1"]
    assert "leads out" in reasons["link.parquet"]
    assert "no column" in reasons["wrong.parquet"] and "its 7 rows are lost" in reasons["wrong.parquet"]
    assert any(where.startswith("broken.parquet") and "rows are lost" in reason for where, reason in reasons.items())


def test_captions_are_read_as_the_release_reads_them(tmp_path: Path) -> None:
    lines = [b'{"image": "a/0.jpg", "caption": "A Dog"}', b"", b'{"image": "a/0.jpg", "caption": ["A", "Cat"], "similarity": 0.5}']
    captions(tmp_path, lines)
    (tmp_path / "0000001.txt").write_bytes(b'{"image": "a/0.jpg", "caption": "last"}')
    documents, reasons, _ = read(tmp_path, "captions", caption_model="blip2")
    assert [one.document.texts for one in documents] == [("A Dog",), ("A Cat",), ("last",)]
    assert [one.document.id for one in documents] == ["c-0000000-1", "c-0000000-3", "c-0000001-1"]
    assert documents[1].document.images[0].facts == {"caption_model": "blip2", "similarity": 0.5}
    assert documents[0].document.origin == "automated" and reasons == {}
    assert read(tmp_path, "captions", lower_case=True)[0][1].document.texts == ("a cat",)
    assert read(tmp_path, "captions")[0][0].document.origin == "natural"


def test_every_hostile_caption_line_is_refused_by_line_and_reason(tmp_path: Path) -> None:
    cases = [
        (b"{'image': 'a/0.jpg', 'caption': 'x'}", "double quotes"),
        (b'{"image": "a/0.jpg", "caption": ""}', "caption is empty"),
        (b'{"image": "a/0.jpg"}', "caption is absent"),
        (b'{"caption": "x"}', "image is absent"),
        (b'{"image": "a/0.jpg", "caption": 7}', "caption must be a text, not a number"),
        (b'{"image": "a/0.jpg", "caption": ["x", null]}', "caption must be a text, not null"),
        (b'{"image": ["a/0.jpg"], "caption": "x"}', "image must be a text, not a list"),
        (b'{"image": "../0000000.txt", "caption": "x"}', "must be relative"),
        (b'{"image": "text.jpg", "caption": "x"}', "not a"),
        (b'{"image": "a", "caption": "x"}', "no regular file"),
        (b'{"image": "a\\u0000b", "caption": "x"}', "must be relative"),
        (b'{"image": "a/none.jpg", "caption": "x"}', "there is no such file"),
        (b'{"image": "a/0.jpg", "caption": "x", "similarity": NaN}', "NaN"),
        (b'{"image": "a/0.jpg", "caption": "x", "aesthetic": "6"}', "aesthetic must be a number"),
        (b'{"image": "a/0.jpg", "caption": "' + b"x" * 100_001 + b'"}', "longer than max_text_bytes"),
        (b'{"image": "a/0.jpg", "caption": "\xff"}', "not UTF-8"),
        (b'{"image": "a/0.jpg", "caption": "\\udc00"}', "surrogate"),
        (b"[" * 100_000, "not JSON"),
        (b'{"image": "a/0.jpg", "caption": "' + b"x" * 11_000_000 + b'"}', "longer than 10000000 bytes"),
    ]
    captions(tmp_path, [b'{"image": "a/0.jpg", "caption": "good"}', *(line for line, _ in cases)])
    documents, reasons, missing = read(tmp_path, "captions")
    assert [one.document.texts for one in documents] == [("good",)]
    assert len(reasons) == len(cases)
    for number, (_, reason) in enumerate(cases, 2):
        assert reason in reasons[f"0000000.txt:{number}"], number
    assert missing == ["0000000.txt:13"]


def test_texts_of_any_field_are_documents_without_pictures(tmp_path: Path) -> None:
    lines = [{"content": "x" * 90_000, "url": "http://x", "language": "de"}, {"content": "\ufeffshort"}, {"text": "other"}, {"content": 3}]
    (tmp_path / "c4").mkdir()
    (tmp_path / "c4/part-0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "c4/part-1.jsonl").write_text(json.dumps({"content": "y" * 100_001}) + "\n{\n")
    documents, reasons, _ = read(tmp_path, "texts", text="content")
    assert [(one.document.kind, len(one.document.texts[0])) for one in documents] == [("text", 90_000), ("text", 6)]
    assert documents[0].document.facts == {"url": "http://x", "language": "de"} and documents[1].document.facts == {}
    assert read(tmp_path, "texts", text="content", language="en")[0][1].document.facts == {"language": "en"}
    assert {where: reason[:20] for where, reason in reasons.items()} == {
        "c4/part-0.jsonl:3": "content is absent",
        "c4/part-0.jsonl:4": "content must be a te",
        "c4/part-1.jsonl:1": "a text of 100001 byt",
        "c4/part-1.jsonl:2": "not JSON: Expecting ",
    }


def test_objects365_gives_boxes_and_leaves_captions_to_be_made(tmp_path: Path) -> None:
    objects365(tmp_path)
    (tmp_path / "train/images").symlink_to(".")
    for units in (1, 3):
        documents, reasons, missing = read(tmp_path, "objects365", images="train", units=units)
        by_id = {one.document.id: one.document for one in documents}
        assert set(by_id) == {"c-1", "c-2", "c-3"} and missing == ["zhiyuan_objv2_train.json:4"]
        assert by_id["c-1"].kind == "caption" and by_id["c-1"].texts == ()
        objects = [{"name": "Person", "box": [2, 3, 12.25, 8], "crowd": True}, {"name": "Wild Bird", "box": [0, 0, 24, 16]}]
        assert by_id["c-1"].fields == {"references": [], "objects": objects}
        assert by_id["c-3"].fields["objects"] == []
        assert reasons["zhiyuan_objv2_train.json:3#objects.0"] == "box [20.0, 3.0, 30.0, 8.0] reaches out of its 24x16 picture"
        assert len(reasons) == 2


def test_every_hostile_entry_of_objects365_is_refused(tmp_path: Path) -> None:
    good = {"id": 1, "file_name": "patch0/objects365_v1_00000001.jpg", "width": 24, "height": 16}
    box = {"image_id": 1, "category_id": 7, "bbox": [1, 1, 2, 2]}
    images = [
        (good, ""), (good, "id 1 was used before"), (7, "an object is expected"), (good | {"id": "2"}, "id must be a whole number"),
        (good | {"id": 2**70}, "id must be a whole number"), (good | {"id": 3, "file_name": None}, "file_name is empty"),
        (good | {"id": 4, "width": -1}, "width and height"), (good | {"id": 5, "height": True}, "height must be"),
    ]  # fmt: skip
    boxes = [
        (box, ""), (box | {"bbox": [1, 1, 2]}, "bbox"), (box | {"bbox": [1, 1, 0, 2]}, "positive sides"),
        (box | {"bbox": [1, 1, float("nan"), 2]}, "NaN is not allowed"), (box | {"bbox": [1, 1, float("inf"), 2]}, "Infinity is not"),
        (box | {"bbox": None}, "bbox must be a list"), (box | {"category_id": 7.5}, "category_id must be"), ([], "an object is expected"),
    ]  # fmt: skip
    late = [good | {"id": 10, "file_name": "../../etc/passwd"}, good | {"id": 11, "width": 23}, good | {"id": 12}]
    changes = {"images": [one for one, _ in images] + late, "annotations": [one for one, _ in boxes]}
    objects365(tmp_path, **changes, extra=[1, {"a": []}])
    documents, reasons, _ = read(tmp_path, "objects365", images="train", annotations="zhiyuan_objv2_train.json")
    assert [one.document.id for one in documents] == ["c-1", "c-12"]
    for array, cases in (("images", images), ("annotations", boxes)):
        for number, (_, reason) in enumerate(cases):
            assert not reason or reason in reasons[f"zhiyuan_objv2_train.json:{array}[{number}]"]
    assert "leads out" in reasons["zhiyuan_objv2_train.json:10"]
    assert "boxes are for 23x16" in reasons["zhiyuan_objv2_train.json:11"]
    assert len(reasons) == len(images) + len(boxes)
    objects365(tmp_path, **changes | {"annotations": [box | {"category_id": 99}, box | {"image_id": 99}]})
    _, reasons, _ = read(tmp_path, "objects365", images="train")
    assert reasons["zhiyuan_objv2_train.json:1"] == "category 99 has no name"
    assert reasons["zhiyuan_objv2_train.json:annotations"] == "1 of them belong to no image of the file"
    whole = (tmp_path / "zhiyuan_objv2_train.json").read_text()
    for text in (whole[: len(whole) // 2], "[]", "", '{"images": 3', '{"images": [}', '{"images": [' + "[" * 100_000):
        (tmp_path / "zhiyuan_objv2_train.json").write_text(text)
        assert any("the rest of the file is not read" in reason for reason in read(tmp_path, "objects365", images="train")[1].values())
    (tmp_path / "zhiyuan_objv2_train.json").write_text('{"imagez": [], "annotations": 3, "categories": []}')
    assert read(tmp_path, "objects365", images="train")[1] == {
        "zhiyuan_objv2_train.json": "it has no 'images'",
        "zhiyuan_objv2_train.json:annotations": "a list is expected, found '3'",
    }


@pytest.mark.parametrize("kind", ["captions", "img2dataset", "mmc4", "obelics", "objects365", "omnicorpus", "texts"])
def test_folders_and_options_that_cannot_be_used_are_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(CorpusError, match=r"corpus c: .*(there is no|no JSON file)"):
        read(tmp_path, kind)
    with pytest.raises(CorpusError, match=r"corpus c: options\.colour"):
        read(tmp_path, kind, colour="red")


@pytest.mark.parametrize(
    ("kind", "name"), [("captions", "0.txt"), ("texts", "0.jsonl"), ("omnicorpus", "0.parquet"), ("img2dataset", "0.parquet")]
)
def test_a_shard_without_a_record_is_a_copy_that_failed(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / name).write_bytes(b" \n\n" if kind == "texts" else b"")
    if name.endswith(".parquet"):
        table(tmp_path / name, key=[], status=[], images=[], texts=[])
    documents, reasons, _ = read(tmp_path, kind)
    assert not documents and reasons[name] in ("there is no record in it", "there is no row in it")


def test_ids_of_long_shard_names_are_digests_that_stay(tmp_path: Path) -> None:
    name = "a shard/with a name that is no key and rather long.jsonl"
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text('{"text": "a"}\n')
    key = hashlib.blake2b(f"{name.removesuffix('.jsonl')}-1".encode(), digest_size=16).hexdigest()
    assert read(tmp_path, "texts")[0][0].document.id == f"c-{key}"


def with_header(tar: bytes, header: bytes) -> bytes:
    """The tar with a header where its end mark was."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        archive.getmembers()
        return tar[: archive.offset] + header + bytes(10240)


def test_tars_whose_headers_lead_backwards_or_state_endless_names_end(tmp_path: Path) -> None:
    members(tmp_path / "0.tar", *sample("0"), *sample("1"))
    good = (tmp_path / "0.tar").read_bytes()
    names = tarfile.TarInfo("long")
    names.type, names.size = tarfile.GNUTYPE_LONGNAME, 2_000_000
    pax = tarfile.TarInfo("2.jpg")
    pax.pax_headers = {"size": "-4096"}
    backwards = tarfile.TarInfo("2.jpg").tobuf(tarfile.GNU_FORMAT)
    size = bytearray(backwards[:512])
    size[124:136] = bytes([255]) * 10 + bytes([0xF0, 0x00])  # -4096 as GNU writes it
    size[148:156] = b" " * 8
    size[148:156] = b"%06o\0 " % sum(size)
    for bad, reason in (
        (bytes(size), "states -4096 bytes"),
        (names.tobuf(tarfile.GNU_FORMAT), "states 2000000 bytes"),
        (pax.tobuf(tarfile.PAX_FORMAT), "does not lie behind"),
    ):
        (tmp_path / "0.tar").write_bytes(with_header(good, bad))
        documents, reasons, _ = read(tmp_path, "img2dataset")
        assert len(documents) == 2 and reason in reasons["0.tar"]
