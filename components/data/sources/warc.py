"""Web archives (WARC 1.0 and 1.1, ISO 28500), as crawlers write them: pages, and the pictures that were crawled with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from warcio.archiveiterator import ArchiveIterator
from warcio.recordloader import ArcWarcRecord

from components.data.documents import DocumentError, Facts
from components.data.sources.file_groups import grouped
from components.data.sources.files import path_inside
from components.data.sources.reading_order import MAX_PAGE_BYTES, assemble
from components.data.sources.source import Accepted, Limits, Rejected, Unit, read_options
from components.data.sources.web_page import page_parts
from components.params import CorpusParams, Frozen

_HTML = ("text/html", "application/xhtml+xml")
_MAX_IMAGE_BYTES = 100_000_000


class Options(Frozen):
    """What only this format knows: nothing."""


class WarcSource:
    """Format `warc`: each .warc or .warc.gz file is a unit; each crawled page a document, with the pictures of the same file."""

    def __init__(self, corpus: CorpusParams, folder: Path, limits: Limits) -> None:
        read_options(Options, corpus)
        self._corpus, self._folder, self._limits = corpus, folder, limits
        self._units = [
            Unit(group.files[0], group.files) for group in grouped(folder, (".warc", ".warc.gz"), files_per_unit=1, corpus=corpus.name)
        ]

    def units(self) -> Sequence[Unit]:
        """One archive each."""
        return self._units

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        """Its pages in the order of the archive. An address that was crawled twice is a document each time it was."""
        try:
            path = path_inside(self._folder, unit.name)
            with path.open("rb") as archive, path.open("rb") as beside:
                records, pictures = _survey(archive)
                if not records:
                    raise DocumentError("no WARC record in it")
                archive.seek(0)

                def fetch(address: str) -> bytes | None:
                    offset = pictures.get(address)
                    return None if offset is None else _payload_at(beside, offset)

                yield from self._pages(archive, unit.name, fetch)
        except DocumentError as error:
            yield Rejected(unit.name, str(error))
        except Exception as error:  # a broken archive makes the library raise whatever its fields run into
            yield Rejected(unit.name, f"the archive is unreadable from here on: {type(error).__name__}: {error}")

    def _pages(self, archive: BinaryIO, name: str, fetch: Callable[[str], bytes | None]) -> Iterator[Accepted | Rejected]:
        records = ArchiveIterator(archive)
        for record in records:
            if record.rec_type == "response" and not _has_type(record):
                yield Rejected(f"{name}:{records.get_record_offset()}", "a response without an HTTP head that says what it is")
                continue
            if not _is_response(record, _HTML):
                continue
            address = record.rec_headers.get_header("WARC-Target-URI") or ""
            date = record.rec_headers.get_header("WARC-Date") or ""
            status = record.http_headers.get_statuscode()
            page = record.content_stream().read(MAX_PAGE_BYTES + 1)
            where = f"{name}:{records.get_record_offset()}"  # asking for it reads the record to its end
            try:
                if record.raw_stream.limit > 0:
                    raise DocumentError(f"{address[:200]}: the archive is cut short inside of this page")
                if status != "200":
                    raise DocumentError(f"{address[:200]}: HTTP status {status}")
                if len(page) > MAX_PAGE_BYTES:
                    raise DocumentError(f"{address[:200]}: the page has more than {MAX_PAGE_BYTES} bytes")
                parts = page_parts(page, address, fetch)
            except DocumentError as error:
                yield Rejected(where, str(error))
                continue
            facts: Facts = {"url": address[:2000]} | ({"crawled": date[:40]} if date else {})
            yield from assemble(self._corpus, where, where, parts, self._limits, facts)


def _survey(archive: BinaryIO) -> tuple[int, dict[str, int]]:
    """How many records there are, and the offset of each crawled picture by its address."""
    count = 0
    pictures: dict[str, int] = {}
    records = ArchiveIterator(archive)
    for record in records:
        count += record.format == "warc"  # what is neither is taken for a record of the older ARC
        if _is_response(record, ("image/",)) and record.http_headers.get_statuscode() == "200":
            pictures[record.rec_headers.get_header("WARC-Target-URI") or ""] = records.get_record_offset()
    return count, pictures


def _is_response(record: ArcWarcRecord, types: Sequence[str]) -> bool:
    if record.rec_type not in ("response", "resource") or record.http_headers is None:
        return False
    return (record.http_headers.get_header("Content-Type") or "").strip().lower().startswith(tuple(types))


def _has_type(record: ArcWarcRecord) -> bool:
    return record.http_headers is not None and "/" in (record.http_headers.get_header("Content-Type") or "")


def _payload_at(archive: BinaryIO, offset: int) -> bytes | None:
    archive.seek(offset)
    for record in ArchiveIterator(archive):
        data: bytes = record.content_stream().read(_MAX_IMAGE_BYTES + 1)
        return data if len(data) <= _MAX_IMAGE_BYTES else None
    return None
