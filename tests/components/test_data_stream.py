"""The training stream: every batch is a function of the seed, the index and the step, and of nothing else."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from components.data.collate import Collator, Sample
from components.data.documents import CorpusError, Document, LoadedDocument, TextItem
from components.data.index import Index, Row, write_index
from components.data.layout import Encoded, Piece, encode, lay_out, pieces_of
from components.data.pictures import encode_png
from components.data.reader import DocumentReader, evaluation_documents
from components.data.row import IMAGE
from components.data.shards import ShardWriter
from components.data.sources.digits import compose, export_digits, load_scans
from components.data.stream import Cursor, TrainStream
from components.data.tokenizer import Tokenizer, fit
from components.data.transforms import square
from components.params import COMPOSED_KINDS, DataParams, FewShotParams, Kind, TrainParams
from components.run.failures import FailureClass
from model.batch import InterleavedBatch
from model.build import build_model
from model.config import ModelShape
from model.presets import preset
from model.sequence import plan

TRAIN = TrainParams(steps=20, rows_per_step=8, row_tokens=256, mixture=dict.fromkeys(COMPOSED_KINDS, 1.0), learning_rate=1e-3)
COUNTS = dict.fromkeys(COMPOSED_KINDS, 60)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and index of a small corpus, written without the stage around them."""
    root = tmp_path_factory.mktemp("corpus")
    for name in ("digits", "shards", "index"):
        (root / name).mkdir()
    export_digits(root / "digits")
    data = DataParams(documents=COUNTS, evaluation_documents=dict.fromkeys(COMPOSED_KINDS, 4))
    scans = load_scans(root / "digits")
    rows, texts = [], []
    with ShardWriter(root / "shards", 25) as writer:
        for split in ("train", "evaluation"):
            for document, pictures in compose(data, 0, *scans, split):
                place = writer.add(document, [encode_png(picture) for picture in pictures])
                rows.append((document, place))
                texts += document.texts
        shards = writer.finish()
    json_text = fit(texts, 400)
    tokenizer = Tokenizer(json_text)
    write_index(root / "index", [_row(document, vars(place), tokenizer) for document, place in rows], shards, json_text)
    return root


def _row(document: Document, place: dict, tokenizer: Tokenizer) -> Row:
    sizes = ((32, 32),) * len(document.images)
    trained = sum(item.loss for item in document.images)
    items = tuple(len(tokenizer.encode(item.text)) if isinstance(item, TextItem) else IMAGE for item in document.items)
    return Row(
        id=document.id,
        source="digits",
        kind=document.kind,
        split=document.split,
        **place,
        tokens=sum(tokens for tokens in items if tokens != IMAGE),
        images=sizes,
        trained_images=trained,
        items=items,
        given=tuple(number for number, item in enumerate(document.items) if not item.loss),
    )


@pytest.fixture(scope="module")
def shape(corpus: Path) -> ModelShape:
    return preset("smoke", vocab_size=Index(corpus / "index").tokenizer.vocab_size).shape


def open_stream(corpus: Path, shape: ModelShape, seed: int = 0, train: TrainParams = TRAIN, cursor: Cursor = Cursor()) -> TrainStream:
    return TrainStream(corpus / "index", corpus / "shards", train, shape, seed, window_documents=40, cursor=cursor)


def same(one: InterleavedBatch, two: InterleavedBatch) -> bool:
    pairs = [(getattr(one, field.name), getattr(two, field.name)) for field in fields(one)]
    return all(left is right is None or torch.equal(left, right) for left, right in pairs)


def test_a_batch_is_what_the_model_expects(corpus: Path, shape: ModelShape) -> None:
    batch = open_stream(corpus, shape).batch(0)
    tokens = shape.tokens
    assert batch.text_ids.shape == batch.targets_mask.shape == (8, 256)
    assert torch.equal(batch.attention_mask, batch.document_ids > 0)
    assert (batch.text_ids[~batch.attention_mask] == tokens.pad).all()
    assert not batch.targets_mask[~batch.attention_mask].any()
    images = len(batch.images)
    assert batch.images.shape == (images, 3, 32, 32)
    assert batch.noise.shape == (images, *shape.latent_shape)
    assert (batch.text_ids[batch.image_row, batch.image_column] == tokens.boi).all()
    assert int((batch.text_ids == tokens.boi).sum()) == images
    for offset in range(1, shape.num_visual_tokens + 1):
        assert (batch.text_ids[batch.image_row, batch.image_column + offset] == tokens.image).all()
    assert int((batch.text_ids == tokens.image).sum()) == images * shape.num_visual_tokens
    order = batch.image_row * 256 + batch.image_column
    assert (order[1:] > order[:-1]).all()
    assert not batch.targets_mask[(batch.text_ids == tokens.image) | (batch.text_ids == tokens.bos)].any()
    starts = (batch.text_ids == tokens.bos).sum(1)
    assert torch.equal(starts, batch.document_ids.max(1).values)
    assert 0 <= float(batch.images.min()) <= float(batch.images.max()) <= 1
    trained = batch.image_loss_mask
    assert trained.any()
    assert not trained.all()
    assert torch.equal(batch.targets_mask[batch.image_row, batch.image_column], trained)
    assert (batch.timesteps_u[trained] > 0).all()
    assert not batch.noise[~trained].any()
    assert 0.8 < float(batch.noise[trained].std()) < 1.2


@pytest.mark.parametrize(("ranks", "accumulate"), [(1, 1), (2, 1), (4, 1), (8, 1), (2, 2), (1, 4)])
def test_ranks_and_micro_batches_share_the_same_rows(corpus: Path, shape: ModelShape, ranks: int, accumulate: int) -> None:
    train = TRAIN.model_copy(update={"accumulate": accumulate, "ranks": ranks})
    stream = open_stream(corpus, shape, train=train)
    whole = open_stream(corpus, shape).batch(3)
    parts = [stream.batch(3, rank, ranks, part) for rank in range(ranks) for part in range(accumulate)]
    rows = Counter(row.tobytes() for part in parts for row in part.text_ids.numpy())
    assert rows == Counter(row.tobytes() for row in whole.text_ids.numpy())
    noise = Counter(one.numpy().tobytes() for part in parts for one in part.noise)
    assert noise == Counter(one.numpy().tobytes() for one in whole.noise)
    assert {len(part.text_ids) for part in parts} == {8 // ranks // accumulate}


def test_the_order_in_which_steps_are_asked_for_does_not_matter(corpus: Path, shape: ModelShape) -> None:
    one, two = open_stream(corpus, shape), open_stream(corpus, shape)
    forward = {step: one.batch(step, 1, 2) for step in range(12)}
    for step in (11, 0, 7, 3):
        assert same(forward[step], two.batch(step, 1, 2))
    assert not same(forward[0], open_stream(corpus, shape, seed=1).batch(0, 1, 2))


def test_a_tiny_cache_changes_nothing(corpus: Path, shape: ModelShape) -> None:
    small = TrainStream(corpus / "index", corpus / "shards", TRAIN, shape, 0, window_documents=40, cache_bytes=1)
    assert same(small.batch(2), open_stream(corpus, shape).batch(2))


def test_a_stream_opened_at_a_cursor_goes_on_exactly(corpus: Path, shape: ModelShape) -> None:
    whole = open_stream(corpus, shape)
    cursor = Cursor.from_dict(whole.cursor(15).to_dict())
    resumed = open_stream(corpus, shape, cursor=cursor)
    assert max(place.epoch for place in cursor.places.values()) > 0
    for step in (15, 16, 40):
        assert same(whole.batch(step), resumed.batch(step))
    with pytest.raises(ValueError, match="before the cursor"):
        resumed.batch(0)


def test_skipped_rows_are_left_out_and_nothing_else(corpus: Path, shape: ModelShape) -> None:
    whole = open_stream(corpus, shape)
    skipping = open_stream(corpus, shape, cursor=whole.cursor(4, skip_rows=16))
    for step in (4, 5, 9):
        assert same(skipping.batch(step), whole.batch(step + 2))


def test_a_shard_that_is_deleted_in_the_middle_is_named(corpus: Path, shape: ModelShape, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    stream = TrainStream(tmp_path / "corpus/index", tmp_path / "corpus/shards", TRAIN, shape, 0, window_documents=40, cursor=Cursor())

    def shards(step: int) -> set[str]:
        return {stream.index.row(segment.document).shard for row in stream.plan(step) for segment in row.segments}

    stream.batch(0)
    later, gone = next((step, min(new)) for step in range(1, TRAIN.steps) if (new := shards(step) - shards(0)))
    (tmp_path / "corpus" / "shards" / gone).unlink()
    with pytest.raises(CorpusError, match=gone) as error:
        stream.batch(later)
    assert error.value.failure is FailureClass.BAD_DATA


def test_an_epoch_reads_every_document_and_draws_anew(corpus: Path, shape: ModelShape) -> None:
    train = TRAIN.model_copy(update={"mixture": {"caption": 1.0}})
    stream = open_stream(corpus, shape, train=train)
    seen: dict[int, Counter] = {}
    for step in range(8):
        for row in stream.plan(step):
            for segment in row.segments:
                seen.setdefault(segment.epoch, Counter())[stream.index.row(segment.document).id] += 1
    assert seen[0] == seen[1] == Counter(f"train-caption-{number:06d}" for number in range(60))
    loaded = DocumentReader(Index(corpus / "index"), corpus / "shards").load(Index(corpus / "index").rows("train", "caption")[0])
    collator = Collator(Index(corpus / "index").tokenizer, shape, 256, 0.5, 0)
    encoded = encode(loaded, collator.tokenizer, shape)
    batches = [collator.batch([[Sample(encoded, epoch)]]) for epoch in range(40)]
    first = {int(batch.image_column[0]) for batch in batches}
    assert len(first) == 2, "the picture stands before or after its sentence"
    assert min(first) == 1
    after = [batch for batch in batches if batch.image_column[0] > 1]
    assert all(batch.image_loss_mask[0] for batch in after)
    assert not any(batch.image_loss_mask[0] for batch in batches if batch.image_column[0] == 1)
    assert len({float(batch.timesteps_u[0]) for batch in after}) == len(after)
    assert {bool(batch.drop_condition[0]) for batch in after} == {True, False}


def test_answers_are_trained_and_questions_are_not(corpus: Path, shape: ModelShape) -> None:
    index = Index(corpus / "index")
    loaded = evaluation_documents(corpus / "index", corpus / "shards", "question", 1)[0]
    columns = lay_out(pieces_of(loaded.document, index.tokenizer), index.tokenizer, shape.num_visual_tokens)
    trained = [token for token, loss in zip(columns.ids, columns.trained, strict=True) if loss]
    assert trained == [*index.tokenizer.encode(loaded.document.fields["answer"]), index.tokenizer.eos]
    assert columns.images == [(0, 1, False)]
    assert index.tokenizer.decode(columns.ids) == " ".join(loaded.document.texts)


def test_a_story_is_trained_on_everything_after_its_first_sentence(corpus: Path, shape: ModelShape) -> None:
    index = Index(corpus / "index")
    loaded = evaluation_documents(corpus / "index", corpus / "shards", "story", 1)[0]
    columns = lay_out(pieces_of(loaded.document, index.tokenizer), index.tokenizer, shape.num_visual_tokens)
    given = 1 + len(index.tokenizer.encode(loaded.document.texts[0]))
    assert [loss for token, loss in zip(columns.ids, columns.trained, strict=True) if token != index.tokenizer.image] == [
        *[False] * given,
        *[True] * sum(token != index.tokenizer.image for token in columns.ids[given:]),
    ]
    assert [loss for _, _, loss in columns.images] == [True] * 5


def test_documents_longer_than_a_row_are_read_whole_in_parts(corpus: Path, shape: ModelShape) -> None:
    mixture = {"story": 1.0, "referring": 1.0}
    short, whole = (open_stream(corpus, shape, train=TRAIN.model_copy(update={"row_tokens": n, "mixture": mixture})) for n in (48, 512))
    assert short.excluded == {"story": 0, "referring": 0}
    seen = {stream: Counter[tuple[str, int]]() for stream in (short, whole)}
    for stream, steps in ((short, 60), (whole, 6)):
        for step in range(steps):
            rows = stream.plan(step)
            batch = stream.batch(step)
            for row, ids, documents in zip(rows, batch.text_ids, batch.document_ids, strict=True):
                assert int(documents.max()) == len(row.segments)
                for number, segment in enumerate(row.segments, 1):
                    own = ids[documents == number]
                    assert own[0] == shape.tokens.bos, "a part that goes on has an <s> of its own"
                    if segment.epoch == 0:
                        words = own[own > shape.tokens.eos]
                        seen[stream].update((stream.index.row(segment.document).id, word) for word in words.tolist())
    assert any(segment.begin for step in range(9) for row in short.plan(step) for segment in row.segments)
    assert seen[short] == seen[whole], "every token and every image once"


def test_a_row_without_pictures_goes_through_the_model(corpus: Path, shape: ModelShape) -> None:
    tokenizer = Index(corpus / "index").tokenizer
    piece = Piece(True, ids=tuple(tokenizer.encode("a red 3 and nothing to look at .")))
    empty = np.zeros((0, 32, 32, 3), np.uint8)
    encoded = Encoded("text-0", "text", (piece,), empty, empty)
    batch = Collator(tokenizer, shape, 64, 0.1, 0).batch([[Sample(encoded, 0)], [Sample(encoded, 1)]])
    assert batch.images.shape == (0, 3, 32, 32)
    config = preset("smoke", vocab_size=tokenizer.vocab_size)
    layout = plan(batch.with_blank_image(shape), config)
    assert len(layout.target) == 2 * (len(piece.ids) + 1)
    output = build_model(config, 0)(batch)
    assert torch.isfinite(output.loss)
    assert output.text_count == len(layout.target)


@pytest.mark.parametrize("kind", ["matched", "interleaved", "dialogue", "caption"])
def test_a_picture_changes_places_with_its_sentence_in_the_kinds_made_for_it(corpus: Path, shape: ModelShape, kind: Kind) -> None:
    tokenizer = Index(corpus / "index").tokenizer
    pictures = np.zeros((2, 32, 32, 3), np.uint8)
    words = [tuple(tokenizer.encode(text)) for text in ("a red 3 .", "a blue 7 .")]
    pieces = (Piece(True, image=0), Piece(True, ids=words[0]), Piece(True, image=1), Piece(True, ids=words[1]))
    encoded = Encoded("one", kind, pieces, pictures, pictures)
    collator = Collator(tokenizer, shape, 64, 0.1, 0)
    columns = {tuple(collator.batch([[Sample(encoded, epoch)]]).image_column.tolist()) for epoch in range(30)}
    assert len(columns) == (4 if kind in ("matched", "caption") else 1)


def test_merged_samples_are_one_sequence(corpus: Path, shape: ModelShape) -> None:
    few_shot = FewShotParams(probability=0.5, min=2, max=4)
    train = TRAIN.model_copy(update={"mixture": {"caption": 1.0}, "few_shot": few_shot})
    stream = open_stream(corpus, shape, train=train)
    rows, batch = stream.plan(0), stream.batch(0)
    tokens = shape.tokens
    merged = 0
    for row, ids, documents in zip(rows, batch.text_ids, batch.document_ids, strict=True):
        sequences = int(documents.max())
        assert sequences == sum(not segment.joined for segment in row.segments)
        assert int((ids == tokens.bos).sum()) == int((ids == tokens.eos).sum()) == sequences
        merged += len(row.segments) - sequences
    assert merged > 0
    layout = plan(batch, preset("smoke", vocab_size=stream.index.tokenizer.vocab_size))
    assert int(layout.pairs.distance.max()) > 1, "later samples look at the pictures of earlier ones"


def test_shards_are_read_by_content_hash_and_never_on_trust(corpus: Path, tmp_path: Path, shape: ModelShape) -> None:
    index = Index(corpus / "index")
    store = tmp_path / "cache"
    for shard in index.shards.values():
        target = store / "files/md5" / shard.md5[:2] / shard.md5[2:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(corpus / "shards" / shard.name, target)
    row = index.rows("train", "story")[30]
    by_hash, by_name = DocumentReader(index, store).load(row), DocumentReader(index, corpus / "shards").load(row)
    assert by_hash.document == by_name.document
    assert all(np.array_equal(one, two) for one, two in zip(by_hash.pictures, by_name.pictures, strict=True))
    spoilt = store / "files/md5" / index.shards[row.shard].md5[:2] / index.shards[row.shard].md5[2:]
    data = bytearray(spoilt.read_bytes())
    data[row.offset + 700] ^= 1
    spoilt.write_bytes(data)
    with pytest.raises(CorpusError, match="not those of the index"):
        DocumentReader(index, store).load(row)
    spoilt.unlink()
    with pytest.raises(CorpusError, match="dvc pull"):
        DocumentReader(index, store).load(row)


def test_the_tokenizer_gives_back_any_text_and_keeps_digits_apart(corpus: Path) -> None:
    tokenizer = Index(corpus / "index").tokenizer
    for text in ("northwest a red 3.", "(03,12)(45,99)", "naïve 漢字 12\n\n  x\ty ", "🙂"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert max(ids) < tokenizer.vocab_size
        assert tokenizer.decode([tokenizer.bos, *ids, tokenizer.boi, tokenizer.image, tokenizer.eos]) == text
    assert len(tokenizer.encode("12")) == 2
    assert len(tokenizer.encode("northwest a red 3.")) == 5


def test_pictures_are_squared_whole() -> None:
    picture = np.zeros((90, 200, 3), np.uint8)
    picture[:, 100:] = 255
    found = square(picture, 32)
    assert found.shape == (32, 32, 3)
    assert found[:, :15].max() < 20
    assert found[:, 17:].min() > 235
    same_size = np.zeros((32, 32, 3), np.uint8)
    assert square(same_size, 32) is same_size


def test_an_output_of_another_size_has_its_own_targets(corpus: Path) -> None:
    index = Index(corpus / "index")
    loaded: LoadedDocument = evaluation_documents(corpus / "index", corpus / "shards", "story", 1)[0]
    tokens = preset("smoke", vocab_size=index.tokenizer.vocab_size).tokens
    bigger = ModelShape(num_visual_tokens=4, image_px=16, output_px=64, latent_shape=(4, 8, 8), max_row_tokens=512, tokens=tokens)
    batch = Collator(index.tokenizer, bigger, 256, 0.1, 0).batch([[Sample(encode(loaded, index.tokenizer, bigger), 0)]])
    assert batch.images.shape == (5, 3, 16, 16)
    assert batch.target_images.shape == (5, 3, 64, 64)
    assert batch.noise.shape == (5, 4, 8, 8)
