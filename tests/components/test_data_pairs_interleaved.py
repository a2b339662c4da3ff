"""MMC4, OBELICS and OmniCorpus in their published forms: order kept, lost pictures counted, hostile records refused."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_reading import read
from pair_corpora import address, digest, draw, entry, obelics_row, omnicorpus_row, page, rows, shard

from components.data.documents import CorpusError
from components.data.sources.archives import zip_streams
from components.data.sources.files import json_lines
from components.data.sources.parquet import parquet_rows
from components.data.sources.source import Accepted, Rejected


def told(one: Accepted) -> list[str]:
    """A document's texts, and its pictures by their width."""
    widths = iter(one.sizes)
    return [item.text if item.type == "text" else f"<{next(widths)[0]}>" for item in one.document.items]


def test_mmc4_puts_every_picture_before_its_sentence_and_counts_those_never_fetched(tmp_path: Path) -> None:
    draw(tmp_path / "images", a=20, b=30, c=40)
    full = page(entry("b", 2, 0.1), entry("a", 0), entry("lost", 1), entry("c", 2, face_detections=[{}, {}]))
    for zipped in (True, False):
        shard(tmp_path, "docs_shard_7_v2.jsonl", full, page(), page(entry("lost", 0)), zipped=zipped)
        documents, reasons, missing = read(tmp_path, "mmc4")
        (tmp_path / "docs_shard_7_v2.jsonl.zip").unlink(missing_ok=True)
        assert [one.document.id for one in documents] == [f"c-docs_shard_7_v2-{line}" for line in (1, 2, 3)]
        assert told(documents[0]) == ["<20>", "One.", "Two.", "<30>", "<40>", "Three."]
        assert told(documents[1]) == told(documents[2]) == ["One.", "Two.", "Three."]
        document = documents[0].document
        assert (document.kind, document.facts) == ("matched", {"url": "http://x", "url_duplicate": 0, "images_missing": 1})
        assert [item.facts["similarity"] for item in document.images] == [0.3, 0.1, 0.3]
        assert document.images[2].facts == {"similarity": 0.3, "sentence": 2, "url": "http://x/c", "faces": 2}
        name = "docs_shard_7_v2.jsonl.zip" if zipped else "docs_shard_7_v2.jsonl"
        assert missing == list(reasons) == [f"{name}:1#2", f"{name}:3#0"]
    shard(tmp_path, "docs_shard_7_v2.jsonl", full)
    with pytest.raises(CorpusError, match="lies there unzipped too"):
        read(tmp_path, "mmc4")


def test_mmc4_pictures_are_found_by_the_digest_of_their_address(tmp_path: Path) -> None:
    for method in ("sha256", "md5"):
        digest = hashlib.new(method, b"http://x/a").hexdigest()
        draw(tmp_path / "photos", **{digest: 20})
        shard(tmp_path, "docs_shard_0_v2.jsonl", page(entry("a", 0), entry("a", 1, raw_url=None)))
        documents, reasons, _ = read(tmp_path, "mmc4", images="photos", image_names=method, image_suffix=".jpg")
        assert told(documents[0]) == ["<20>", "One.", "Two.", "Three."]
        assert reasons == {"docs_shard_0_v2.jsonl.zip:1#1": "no address is stated for the picture"}


def test_every_hostile_line_and_picture_of_mmc4_is_refused_where_it_stands(tmp_path: Path) -> None:
    draw(tmp_path / "images", a=20)
    (tmp_path / "images/text.jpg").write_bytes(b"no picture")
    (tmp_path / "images/out.jpg").symlink_to("/etc/hostname")
    lines: list[tuple[dict[str, Any] | bytes, str]] = [
        (page(sentences="One."), "text_list must be a list, not a text"), (page(sentences=["One.", 2]), "text_list[1] must be a text"),
        (page(sentences=["\ud800"]), "surrogate"), (page(image_info={}), "image_info must be a list"), ({}, "text_list is absent"),
        (page(sentences=[]), "neither a sentence nor a usable picture"), (page(url=["x"]), "url must be a text"),
        (page(could_have_url_duplicate="no"), "url_duplicate must be a number"),
        (page(sentences=["x" * 100_001]), "longer than max_text_bytes"),
        (page(*[entry("a", 0)] * 9), "9 images are more than max_document_images"),
        (page(entry("a", 0, float("nan"))), "NaN"), (b"{'image_info': []}", "double quotes"), (b"\xff\xfe", "not UTF-8"),
    ]  # fmt: skip
    pictures: list[tuple[Any, str]] = [
        (7, "must be an object, not a number"), (entry("a", 3), "matched_text_index is 3, but there are 3 sentences"),
        (entry("a", -1), "matched_text_index is -1"), (entry("a", True), "matched_text_index must be a whole number"),
        (entry("a", "0"), "matched_text_index must be"), (entry("a", 10**30), "matched_text_index is 1000"),
        (entry("a", 0, "0.3"), "matched_sim must be a number"), (entry("a", 0, None), "matched_sim must be a number, not null"),
        (entry("../docs_shard_0_v2", 0), "leads out"), (entry("../../etc/passwd", 0), "leads out"), (entry("out", 0), "leads out"),
        (entry("text", 0), "not a"), (entry("a", 0, image_name=["x"]), "image_name must be a text"),
        (entry("a", 0, raw_url="x" * 9000), "url has 9000 signs"), (entry("a", 0, image_name=""), "no file name is stated"),
        (entry("n" * 300, 0), "cannot be opened"),
    ]  # fmt: skip
    known = [page(one, entry("a", 1)) for one, _ in pictures]
    shard(tmp_path, "docs_shard_0_v2.jsonl", *(line for line, _ in lines), *known)
    documents, reasons, missing = read(tmp_path, "mmc4")
    assert [told(one) for one in documents] == [["One.", "<20>", "Two.", "Three."]] * len(pictures)
    assert len(reasons) == len(lines) + len(pictures) and missing == []
    for number, (_, reason) in enumerate(lines, 1):
        assert reason in reasons[f"docs_shard_0_v2.jsonl.zip:{number}"], number
    for number, (_, reason) in enumerate(pictures, len(lines) + 1):
        assert reason in reasons[f"docs_shard_0_v2.jsonl.zip:{number}#0"], number


def test_mmc4_takes_the_similarity_from_the_matrix_where_only_that_has_it(tmp_path: Path) -> None:
    draw(tmp_path / "images", a=20)
    info = entry("a", 1)
    del info["matched_sim"]
    shard(tmp_path, "docs_shard_0_v2.jsonl", page(info, similarity_matrix=[[0.1, 0.7, 0.2]]), page(info, similarity_matrix=[[0.1]]))
    documents, reasons, _ = read(tmp_path, "mmc4")
    assert documents[0].document.images[0].facts["similarity"] == 0.7
    assert "neither matched_sim nor an entry" in reasons["docs_shard_0_v2.jsonl.zip:2#0"]


def test_zips_that_are_bombs_broken_or_more_than_a_shard_are_refused(tmp_path: Path) -> None:
    shard(tmp_path, "broken.jsonl", *[page(url=f"http://x/{number}{number**9}") for number in range(3000)])
    data = bytearray((tmp_path / "broken.jsonl.zip").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    (tmp_path / "broken.jsonl.zip").write_bytes(data)
    (tmp_path / "cut.jsonl.zip").write_bytes(bytes(data[:-30]))
    with zipfile.ZipFile(tmp_path / "bomb.jsonl.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jsonl", b"\n" * 30_000_000)
    with zipfile.ZipFile(tmp_path / "lzma.jsonl.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("lzma.jsonl", b"{}\n")
    with zipfile.ZipFile(tmp_path / "two.jsonl.zip", "w") as archive:
        archive.writestr("two.jsonl", json.dumps(page()) + "\n")
        archive.writestr("more.jsonl", b"{}\n")
        archive.writestr("../out.jsonl", b"{}\n")
    with zipfile.ZipFile(tmp_path / "bare.jsonl.zip", "w") as archive:
        archive.writestr("named.jsonl", json.dumps(page()) + "\n")
    (tmp_path / "bare.jsonl.zip").write_bytes((tmp_path / "bare.jsonl.zip").read_bytes().replace(b"named.jsonl", b"\0amed.jsonl"))
    with zipfile.ZipFile(tmp_path / "none.jsonl.zip", "w") as archive:
        archive.mkdir("folder")
    documents, reasons, _ = read(tmp_path, "mmc4")
    assert reasons["bare.jsonl.zip:"] == "a member without a name" and reasons["none.jsonl.zip"] == "there is no file in it"
    places = {one.document.id for one in documents}
    assert "c-two-1" in places and 100 < sum(place.startswith("c-broken") for place in places) < 3000
    (last,) = [where for where, reason in reasons.items() if where.startswith("broken") and "unreadable from here" in reason]
    assert (
        int(last.rpartition(":")[2])
        == 1 + sum(place.startswith("c-broken") for place in places) + sum("broken" in key for key in reasons) - 1
    )
    assert "unreadable as a zip" in reasons["cut.jsonl.zip"] and "a bomb" in reasons["bomb.jsonl.zip:bomb.jsonl"]
    assert "compressed by method 14" in reasons["lzma.jsonl.zip:lzma.jsonl"]
    assert "a second file in a shard" in reasons["two.jsonl.zip:more.jsonl"] and "leads out" in reasons["two.jsonl.zip:../out.jsonl"]


def test_json_lines_of_a_zip_are_streamed(tmp_path: Path) -> None:
    shard(tmp_path, "a.jsonl", *[{"number": number} for number in range(5)])
    (opened,) = zip_streams(tmp_path / "a.jsonl.zip", "z", 1000)
    assert not isinstance(opened, Rejected) and opened[0] == "a.jsonl"
    for member in zip_streams(tmp_path / "a.jsonl.zip", "z", 1000):
        assert not isinstance(member, Rejected)
        assert [one[1] for one in json_lines(member[1], "z") if not isinstance(one, Rejected)] == [
            {"number": number} for number in range(5)
        ]
    (refused,) = zip_streams(tmp_path / "a.jsonl.zip", "z", 10)
    assert refused == Rejected("z:a.jsonl", "70 bytes, more than 10")


def test_obelics_keeps_the_order_of_the_page(tmp_path: Path) -> None:
    draw(tmp_path / "images", **{digest("a"): 20, digest("b"): 30})
    bare = obelics_row(images=[None, address("none")], texts=["Only.", None], metadata=None, general_metadata=None)
    rows(tmp_path / "data/train-00000.parquet", obelics_row(), obelics_row(texts=[None, "", None, "Last."]), bare)
    documents, reasons, missing = read(tmp_path, "obelics", image_suffix=".jpg")
    assert [told(one) for one in documents] == [["<20>", "First.", "<30>", "Last."], ["<20>", "<30>", "Last."], ["Only."]]
    assert len({one.document.id for one in documents}) == 3
    document = documents[0].document
    assert (document.kind, document.facts) == ("interleaved", {"url": "http://page", "language": "en"})
    assert document.images[0].facts == {"url": address("a"), "alt_text": "a cat", "width": 200, "height": 100}
    assert documents[2].document.facts == {"language": "en", "images_missing": 1}
    assert missing == list(reasons) == ["data/train-00000.parquet:3#1"]


def test_omnicorpus_is_the_same_from_parquet_and_json_lines(tmp_path: Path) -> None:
    draw(tmp_path / "images", **{digest("a"): 20, digest("b"): 30})
    for name in ("a", "b"):
        (tmp_path / "images" / f"{digest(name)}.jpg").rename(tmp_path / "images" / digest(name))
    rows(tmp_path / "CC-MAIN-2013-20/train-0.parquet", omnicorpus_row(), omnicorpus_row())
    rows(tmp_path / "CC-MAIN-2013-48/train-0.parquet", omnicorpus_row())
    documents, reasons, _ = read(tmp_path, "omnicorpus", language="en")
    assert [told(one) for one in documents] == [["<20>", "First.", "<30>", "Last."]] * 3 and reasons == {}
    document = documents[0].document
    assert document.facts == {"url": "http://page", "language": "en", "nsfw": 0.02, "fluency_prob": 0.9}
    assert document.images[0].facts == {"url": address("a"), "aesthetic": 0.7, "nsfw": 0.01, "width": 20, "height": 16, "p_hash": "p"}
    (tmp_path / "yt.jsonl").write_text(json.dumps(omnicorpus_row()) + "\n" + json.dumps(obelics_row()) + "\n")
    lines, reasons, _ = read(tmp_path, "omnicorpus", language="en", shards="*.jsonl")
    assert lines[0].document.model_copy(update={"id": document.id, "items": document.items}) == document
    assert told(lines[0]) == told(documents[0]) and "metadata must be a list, not a text" in reasons["yt.jsonl:2"]


def test_pictures_that_img2dataset_fetched_are_found_by_their_address(tmp_path: Path) -> None:
    draw(tmp_path / "fetched/00000", **{"000000000": 20, "000000002": 40})
    one = {"url": address("a"), "key": "000000000", "status": "success"}
    failed = {"url": address("b"), "key": "000000001", "status": "failed_to_download"}
    outward = {"url": address("c"), "key": "../../data", "status": "success"}
    rows(tmp_path / "fetched/00000.parquet", one, failed, outward, {"url": None, "key": None, "status": "success"})
    row = obelics_row(images=[address("a"), None, address("b"), address("c")], texts=[None, "T.", None, None], metadata=None)
    rows(tmp_path / "data/train-0.parquet", row)
    options = {"images": "fetched", "image_names": "img2dataset"}
    (document,), reasons, missing = read(tmp_path, "obelics", **options)
    assert told(document) == ["<20>", "T."]
    assert missing == list(reasons) == ["data/train-0.parquet:1#2", "data/train-0.parquet:1#3"]
    assert "http://x/b is not among the downloads" in reasons[missing[0]]
    (tmp_path / "fetched/00001.parquet").write_bytes(b"PAR1 and nothing more")
    assert "00001.parquet:1: unreadable as parquet" in read(tmp_path, "obelics", **options)[1][missing[0]]
    with pytest.raises(CorpusError, match="has no parquet file"):
        read(tmp_path, "obelics", images="nowhere", image_names="img2dataset")


def test_every_hostile_row_is_refused_by_row_and_reason(tmp_path: Path) -> None:
    draw(tmp_path / "images", **{digest("a"): 20, digest("b"): 30})
    (tmp_path / "images" / f"{digest('text')}.jpg").write_bytes(b"no picture")
    cases: list[tuple[dict[str, Any], str]] = [
        (obelics_row(texts=[None, "x"]), "4 images, 2 texts and 4 entries of metadata do not stand beside each other"),
        (obelics_row(metadata="[]", texts=["both", None, None, "x"]), "place 0 has both an image and a text"),
        (obelics_row(texts=[None, None, None, "x"]), "place 1 has neither an image nor a text"),
        (obelics_row(images=None), "images must be a list, not null"), (obelics_row(texts=None), "texts must be a list"),
        (obelics_row(metadata="[1"), "metadata is no JSON"), (obelics_row(metadata="[" * 100_000), "metadata is no JSON"),
        (obelics_row(metadata="{}"), "metadata must be a list in JSON"), (obelics_row(metadata="[null]"), "1 entries of metadata"),
        (obelics_row(general_metadata="[]"), "general_metadata must be an object"),
        (obelics_row(general_metadata='{"url": NaN}'), "url is nan"),
        (obelics_row(texts=[None, "x" * 100_001, None, None], images=[address("a"), None, address("b"), address("a")]), "max_text_bytes"),
        (obelics_row(images=[address("a")] * 9, texts=[None] * 9, metadata="[]"), "9 images are more than max_document_images"),
        (obelics_row(images=[], texts=[], metadata="[]"), "neither a text nor a usable picture"),
        (obelics_row(images=[address("no")], texts=[None], metadata="[]"), "it has no text, and none of its pictures can be had"),
    ]  # fmt: skip
    pictures: list[tuple[str, str, str]] = [
        ("text", "[{}]", "not a"), ("a", "[7]", "metadata[0] must be an object"),
        ("a", '[{"original_width": "wide"}]', "width must be a number"),
        ("a", '[{"original_width": Infinity}]', "width is inf"), ("a", '[{"alt_text": "\\ud800"}]', "surrogate"),
        ("x" * 9000, "[{}]", "9009 signs"),
    ]  # fmt: skip
    partly = [obelics_row(images=[address(name), None], texts=[None, "x"], metadata=text[:-1] + ", null]") for name, text, _ in pictures]
    rows(tmp_path / "t.parquet", *(row for row, _ in cases), *partly)
    documents, reasons, _ = read(tmp_path, "obelics", image_suffix=".jpg")
    assert [told(one) for one in documents] == [["x"]] * len(pictures)
    assert len(reasons) == len(cases) + len(pictures) + 1
    for number, (_, reason) in enumerate(cases, 1):
        assert reason in reasons[f"t.parquet:{number}"], number
    for number, (_, _, reason) in enumerate(pictures, len(cases) + 1):
        assert reason in reasons[f"t.parquet:{number}#0"], number


@pytest.mark.parametrize("values", [{"images": [1, 2], "texts": ["a", "b"]}, {"images": [[1.5], [2.5]], "texts": [["a"], ["b"]]}])
def test_columns_of_other_types_are_refused_row_by_row(tmp_path: Path, values: dict[str, Any]) -> None:
    pq.write_table(pa.table(values), tmp_path / "t.parquet")
    documents, reasons, _ = read(tmp_path, "omnicorpus")
    assert not documents and set(reasons) == {"t.parquet:1", "t.parquet:2"}


def test_rows_that_are_no_utf_8_are_refused_and_the_others_read(tmp_path: Path) -> None:
    texts = pa.array([[b"good"], [b"bad \xff"], [b"also good"]], pa.list_(pa.binary())).cast(pa.list_(pa.binary()))
    raw = pa.ListArray.from_arrays(texts.offsets, pa.StringArray.from_buffers(3, texts.values.buffers()[1], texts.values.buffers()[2]))
    pq.write_table(pa.table({"images": pa.array([[None]] * 3, pa.list_(pa.string())), "texts": raw}), tmp_path / "t.parquet")
    documents, reasons, _ = read(tmp_path, "omnicorpus")
    assert [told(one) for one in documents] == [["good"], ["also good"]]
    assert list(reasons) == ["t.parquet:2"] and "not UTF-8" in reasons["t.parquet:2"]


def test_a_parquet_file_that_repeats_a_long_text_is_not_unfolded(tmp_path: Path) -> None:
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000 + [1], pa.int32()), pa.array(["x" * 1_000_000, "short"]))
    texts = pa.ListArray.from_arrays(pa.array([0, 100_000, 100_001], pa.int32()), repeated)
    images = pa.array([[None] * 100_000, [None]], pa.list_(pa.string()))
    pq.write_table(pa.table({"images": images, "texts": texts}), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 100_000
    (document,), reasons, _ = read(tmp_path, "omnicorpus")
    assert told(document) == ["short"] and list(reasons) == ["t.parquet:1"]
    assert "bytes are more than 10000000" in reasons["t.parquet:1"]


def test_no_flipped_bit_of_a_parquet_footer_ends_the_process(tmp_path: Path) -> None:
    path, columns = tmp_path / "t.parquet", {"images": [["a", None]], "texts": [[None, "b"]]}
    pq.write_table(pa.table(columns), path, compression="none", store_schema=False)
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for place in range(footer, len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert list(parquet_rows(path, "t.parquet", ["images", "texts"], ["images"]))


def test_lists_of_texts_whose_dictionary_grew_too_large_are_read_to_the_end(tmp_path: Path) -> None:
    values = [[f"{row}.{number} " + "x" * 1000 for number in range(10)] for row in range(400)]
    table = pa.table({"images": pa.array([[None] * 10] * 400, pa.list_(pa.string())), "texts": values})
    pq.write_table(table, tmp_path / "t.parquet", dictionary_pagesize_limit=1_000_000)
    documents, reasons, _ = read(tmp_path, "omnicorpus")
    assert [told(one) for one in documents] == values and reasons == {}
