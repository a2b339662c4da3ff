"""Every reader under damaged files: no crash, no hang, nothing written, no loss that is not counted.

The mutations are drawn from a fixed seed; MMFS_FUZZ_SEED draws others, MMFS_FUZZ_MUTATIONS more. tests/fuzz/fuzz_readers.py is
guided by coverage and runs for as long as it is let.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from corpus_seeds import SEEDS, UNSTATED
from mutations import mutated

from components.data.documents import CorpusError, parse_document
from components.data.sources.formats import FORMATS, open_source
from components.data.sources.source import Accepted, Limits, Rejected
from components.params import CorpusParams

LIMITS = Limits(image_pixels=1_000_000, text_bytes=100_000, images=100)
MUTATIONS = int(os.environ.get("MMFS_FUZZ_MUTATIONS", "10000"))
PATIENCE_S = 30
SLOW = {"flintstonessv", "html", "pororosv", "warc"}
"""Formats with a third of the mutations of others: a page takes a dozen milliseconds, a story's strips are half a megabyte."""


def test_every_format_has_a_seed_and_its_mutations() -> None:
    assert set(SEEDS) == set(FORMATS)
    assert sum(map(mutations, SEEDS)) >= MUTATIONS


@pytest.mark.parametrize("format", sorted(SEEDS))
def test_a_sound_corpus_is_accepted_whole(tmp_path: Path, format: str) -> None:
    accepted, rejected = read(tmp_path, SEEDS[format](tmp_path))
    assert accepted and not rejected


@pytest.mark.parametrize("format", sorted(SEEDS))
def test_damage_is_rejected_by_name_and_nothing_else_happens(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    corpus = SEEDS[format](folder)
    monkeypatch.chdir(tmp_path)
    whole = len(read(folder, corpus)[0])
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    seed = os.environ.get("MMFS_FUZZ_SEED", "0")
    for number in range(mutations(format)):
        rng = random.Random(f"{seed} {format} {number}")
        path = rng.choice(list(files))
        path.write_bytes(mutated(files[path], rng))
        told = f"mutation {number} of {path.name}, seed {seed}"
        try:
            with patience(told):
                accepted, rejected = read(folder, corpus)
        except CorpusError:
            pass  # the folder as a whole is refused, by name
        except Exception as error:
            raise AssertionError(f"{told}: {error!r}") from error
        else:
            assert len(accepted) >= whole or rejected or format in UNSTATED, f"{told}: a loss is not counted"
        path.write_bytes(files[path])
    assert {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()} == files
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def mutations(format: str) -> int:
    """How many of all are its own."""
    few = MUTATIONS // len(SEEDS) // 3
    return few if format in SLOW else -(-(MUTATIONS - few * len(SLOW)) // (len(SEEDS) - len(SLOW)))


def read(folder: Path, corpus: CorpusParams) -> tuple[list[Accepted], list[Rejected]]:
    source = open_source(corpus, folder, LIMITS)
    found = [one for unit in source.units() for one in source.documents(unit)]
    accepted, rejected = [one for one in found if isinstance(one, Accepted)], [one for one in found if isinstance(one, Rejected)]
    assert all(one.where and one.reason for one in rejected)
    for one in accepted:
        assert parse_document(one.document.model_dump_json()) == one.document  # what is written into a shard can be read again
        assert len(one.images) == len(one.sizes) == len(one.document.images)
    return accepted, rejected


@contextmanager
def patience(told: str) -> Iterator[None]:
    """Ends a reader that hangs."""

    def stop(signal_number: int, frame: object) -> None:
        raise TimeoutError(f"{told}: no end after {PATIENCE_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
