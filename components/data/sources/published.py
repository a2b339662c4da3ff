"""What was published: the splits of a set with their files and counts, and where a corpus has put them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from components.data.documents import CorpusError
from components.params import CorpusParams, Frozen


class SetOptions(Frozen):
    """Where the files of a set lie; what is empty is as published (docs/corpora.md)."""

    phase: str = Field(
        "", description="which published split to read: train, val, test, ...; empty: the one that goes with the corpus's split"
    )
    annotations: str = Field("", description="folder of the annotation files below the corpus's; `.` is the corpus's own")
    images: str = Field("", description="folder of the pictures below the corpus's; `.` is the corpus's own")
    file: str = Field("", description="another name of the annotation file, where the set has only one")
    parts: int = Field(1, ge=1, le=10_000, description="in how many units the set is prepared")


@dataclass(frozen=True)
class Phase:
    """A published split: its annotation files, the folder of its pictures, and how many records it has when it is complete.

    `within` is how far off a count may be that is published rounded.
    """

    files: tuple[str, ...]
    images: str = ""
    count: int | None = None
    within: int = 0


@dataclass(frozen=True)
class Published:
    """A set as published: its phases by name, and which one a corpus for training or for evaluation reads.

    No `train`: it is not to train on. No `evaluation`: what is published is to train on, unless a phase is named.
    """

    phases: Mapping[str, Phase]
    evaluation: str | None = None
    train: str | None = None


def chosen_phase(corpus: CorpusParams, published: Published, options: SetOptions) -> tuple[str, Phase]:
    """Name and files of the phase that a corpus reads. Raises CorpusError for one that there is not, or that is not to train on."""
    if corpus.split == "train" and published.train is None:
        raise CorpusError(
            f"corpus {corpus.name}: {corpus.format} is for evaluation only (Table 16 of the paper); set its split to evaluation"
        )
    name = options.phase or (published.evaluation if corpus.split == "evaluation" else published.train)
    if name is None:
        raise CorpusError(
            f"corpus {corpus.name}: {corpus.format} has no published split to evaluate on; name one of {', '.join(published.phases)} in "
            "options.phase if you mean it"
        )
    if name not in published.phases:
        raise CorpusError(f"corpus {corpus.name}: options.phase: {corpus.format} has no {name!r}, but {', '.join(published.phases)}")
    phase = published.phases[name]
    files = phase.files
    if options.file:
        if len(files) != 1:
            raise CorpusError(
                f"corpus {corpus.name}: options.file: {corpus.format} has {len(files)} annotation files; set options.annotations"
            )
        files = (options.file,)
    if options.annotations:
        prefix = "" if options.annotations == "." else f"{options.annotations.rstrip('/')}/"
        files = tuple(f"{prefix}{file.rpartition('/')[2]}" for file in files)
    images = phase.images if not options.images else "" if options.images == "." else options.images.rstrip("/")
    return name, Phase(files, images, phase.count, phase.within)


def found_form(corpus: CorpusParams, folder: Path, options: SetOptions, *forms: Published) -> Published:
    """The first of the forms in which a set is published whose files are there; the first of all where none is."""
    for published in forms:
        if options.phase in ("", *published.phases) and not options.file:
            _, phase = chosen_phase(corpus, published, options)
            if all((folder / file).is_file() for file in phase.files):
                return published
    return forms[0]
