"""Samples of a WebDataset tar: members that follow each other and share what stands before the first dot of their name."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from components.data.sources.archives import tar_members
from components.data.sources.source import Rejected

_NAMED = 5


@dataclass
class Sample:
    """Members by ending (`jpg`, `json`) as far as they are wanted, and the first endings of others.

    `last` says that the tar breaks off after it, so that members may be lacking.
    """

    key: str
    parts: dict[str, bytes] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    last: bool = False


def tar_samples(path: Path, name: str, wanted: Container[str], max_bytes: int) -> Iterator[Sample | Rejected]:
    """The samples in order. One with a member that cannot be used is rejected by that member; so is a key used before."""
    seen: set[str] = set()
    sample: Sample | None = None
    spoiled = False
    for member in tar_members(path, name, max_bytes):
        if isinstance(member, Rejected) and member.where == name:
            # The tar breaks off; which member would have come next is not known.
            if sample is not None:
                sample.last = True
            yield member
            continue
        key, ending = _split(member.where[len(name) + 1 :] if isinstance(member, Rejected) else member[0])
        if sample is None or key != sample.key:
            if sample is not None and not spoiled:
                yield sample
            sample, spoiled = Sample(key), key in seen
            if spoiled:
                yield Rejected(f"{name}:{key}", "this key was used before in the tar")
            seen.add(key)
        if isinstance(member, Rejected):
            if not spoiled:
                yield member
            spoiled = True
        elif ending in sample.parts and not spoiled:
            yield Rejected(f"{name}:{member[0]}", "a second member of this name in its sample")
            spoiled = True
        elif ending in wanted and not spoiled:
            sample.parts[ending] = member[1]
        elif len(sample.others) < _NAMED:
            sample.others.append(ending)
    if sample is not None and not spoiled:
        yield sample


def _split(member: str) -> tuple[str, str]:
    """Key and ending, as webdataset splits them: `a/b.c.json` is (`a/b`, `c.json`)."""
    folder, slash, name = member.rpartition("/")
    stem, _, ending = name.partition(".")
    return folder + slash + stem, ending.lower()
