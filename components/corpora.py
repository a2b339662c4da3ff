"""Corpora under DVC: looked at and pinned by `mmfs data add`, put together to a run's input from their pins."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from components.data.documents import CorpusError
from components.data.preparation.reasons import Reasons
from components.data.sources.formats import open_source
from components.data.sources.source import Accepted, Limits, Rejected
from components.params import CorpusParams, DataParams, ParamsError, read_mapping
from components.run.dvc_objects import Entry, cached, listing, store_file, store_folder, write_pin
from components.run.failures import FailureClass, StageError
from components.run.filetree import link_tree, place, remove
from components.run.folder_copy import checked_files, copy_folder
from components.run.paths import Paths
from components.run.pins import pinned_digest
from components.run.yamlfile import write_yaml

LOOKED_AT = 100


@dataclass
class Look:
    """What the first documents of a corpus are like."""

    units: int
    kinds: Counter[str] = field(default_factory=Counter)
    images: int = 0
    rejected: Reasons = field(default_factory=Reasons)

    @property
    def documents(self) -> int:
        """How many were usable."""
        return self.kinds.total()


@dataclass(frozen=True)
class Pin:
    """A corpus under DVC."""

    file: Path
    digest: str
    files: int
    bytes: int


def look(corpus: CorpusParams, folder: Path, limits: Limits, documents: int = LOOKED_AT) -> Look:
    """Read the first documents. Raises CorpusError where the folder is none of the format's kind or none of them can be used."""
    source = open_source(corpus, folder, limits)
    units = source.units()
    found = Look(len(units))

    def samples() -> Iterator[Accepted | Rejected]:
        for unit in units:
            yield from source.documents(unit)

    for sample in islice(samples(), documents):
        if isinstance(sample, Rejected):
            found.rejected.add([sample])
        else:
            found.kinds[sample.document.kind] += 1
            found.images += len(sample.images)
    if not found.documents:
        why = found.rejected.line() or "it holds none"
        raise CorpusError(f"{folder}: none of the first {documents} documents can be used as {corpus.format}: {why}")
    return found


def pin(paths: Paths, name: str, folder: Path) -> Pin:
    """Put the folder's files under DVC as data/corpora/NAME. They are copied once; the checkout and DVC's cache share them by hard links.

    A folder that already lies there is pinned as it is now, without a copy. Raises StageError for what is no regular file, for a full
    disk and what else DVC says.
    """
    target = paths.corpora / name
    if folder.resolve() == target.resolve():
        for _ in checked_files(folder):
            pass
    else:
        paths.corpora.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=paths.corpora, prefix=f".{name}-") as scratch:
            copy_folder(folder, Path(scratch) / name)
            remove(target)
            (Path(scratch) / name).replace(target)
    _dvc_add(paths.root, target)
    file = target.with_name(f"{name}.dvc")
    digest = pinned_digest(file)
    files = [path.stat() for path in target.rglob("*") if path.is_file()]
    if digest is None or len(listing(paths.root, digest)) != len(files):
        fix = "see .dvcignore: what it names is left out by DVC"
        raise StageError(FailureClass.BAD_DATA, f"DVC did not take all {len(files)} files of {target}", fix)
    return Pin(file, digest, len(files), sum(status.st_size for status in files))


def assemble(data: DataParams, paths: Paths, main: Path) -> str:
    """Make data/input of the pins of `data.corpora`, with links to DVC's cache and no byte read or copied where links are possible; DVC's
    md5 of it. `main` is the repository's main checkout, whose corpora must be what their pins say.

    Raises StageError naming the corpus that is not pinned, changed since, or gone from cache and remote.
    """
    entries: list[Entry] = []
    paths.input.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.input.parent, prefix=".input-") as scratch:
        fresh = Path(scratch) / "input"
        fresh.mkdir()
        for corpus in data.corpora:
            digest = _pinned(corpus, paths, main)
            _bring(paths.root, corpus.name)
            entries += [Entry(f"{corpus.name}/{one.relpath}", one.md5) for one in listing(paths.root, digest)]
            link_tree(paths.corpora / corpus.name, fresh / corpus.name)
        if data.tokenizer is not None:
            file = fresh / paths.input_tokenizer.name
            copy_tokenizer(data, main, file)
            entries.append(Entry(file.name, store_file(paths.root, file)))
        digest = store_folder(paths.root, entries)
        place(fresh, paths.input)
    size = sum(cached(paths.root, one.md5).stat().st_size for one in entries)
    write_pin(paths.input_pin, digest, size, len(entries))
    return digest


def copy_tokenizer(data: DataParams, root: Path, target: Path) -> None:
    """Copy `data.tokenizer`, whose path is relative to `root`. Raises StageError where it is no file."""
    source = root / (data.tokenizer or "")
    if not source.is_file():
        raise StageError(FailureClass.BAD_CONFIG, f"data.tokenizer: {source} is no file", "name the tokenizer.json of your language model")
    shutil.copyfile(source, target)


def parameters(corpus: CorpusParams) -> dict[str, Any]:
    """The entry of data.corpora, without what is as always."""
    return corpus.model_dump(mode="json", exclude_defaults=True)


def write_overlay(root: Path, name: str, corpus: CorpusParams) -> Path:
    """Put the corpus into the overlay params/NAME.yaml: added to its corpora, or in the place of one of this name."""
    file = root / "params" / f"{name}.yaml"
    values = read_mapping(file) if file.exists() else {}
    if not isinstance(values, dict) or not isinstance(values.get("data", {}), dict):
        raise ParamsError(f"{file} is no mapping of sections; mend or remove it")
    section = values.setdefault("data", {})
    others = [one for one in section.get("corpora", []) if one.get("name") != corpus.name]
    section |= {"source": "corpora", "corpora": [*others, parameters(corpus)]}
    write_yaml(file, values)
    return file


def _pinned(corpus: CorpusParams, paths: Paths, main: Path) -> str:
    file = paths.corpora / f"{corpus.name}.dvc"
    digest = pinned_digest(file)
    command = f"mmfs data add {corpus.name} PATH --format {corpus.format}"
    if digest is None:
        fix = f"run `{command}` and commit data/corpora/{corpus.name}.dvc"
        raise StageError(FailureClass.BAD_CONFIG, f"corpus {corpus.name} of data.corpora is not pinned: there is no {file}", fix)
    if _changed(main, corpus.name):
        fix = f"pin it as it is: `mmfs data add {corpus.name} data/corpora/{corpus.name} --format {corpus.format}`; or go back to the pin: "
        fix += f"`dvc checkout --force data/corpora/{corpus.name}.dvc`"
        raise StageError(FailureClass.BAD_DATA, f"data/corpora/{corpus.name} of {main} differs from its pin", fix)
    return digest


def _changed(main: Path, name: str) -> bool:
    """Whether the files of the main checkout are others than its pin says; files that are not there are none."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    folder = Paths(main).corpora / name
    if not folder.is_dir() or not folder.with_name(f"{name}.dvc").is_file():
        return False
    try:
        with Repo(str(main)) as repo:
            return bool(repo.status(targets=[str(folder.with_name(f"{name}.dvc"))]))
    except DvcException as error:
        raise StageError(
            FailureClass.INFRASTRUCTURE, f"DVC cannot look at {folder}: {error}".replace("\n", "; "), "run it again"
        ) from error


def _bring(root: Path, name: str) -> None:
    """The corpus in this checkout, from the cache or the remote."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    target = str(Paths(root).corpora / f"{name}.dvc")
    try:
        with Repo(str(root)) as repo:
            repo.fetch(targets=[target])
            repo.checkout(targets=[target], force=True)
    except (DvcException, OSError) as error:
        message = f"corpus {name} is pinned, but neither the cache nor the remote gives it: {error.__cause__ or error}".replace("\n", "; ")
        fix = f"run `dvc push data/corpora/{name}.dvc` where it was added, or `dvc pull data/corpora/{name}.dvc` here"
        raise StageError(FailureClass.INFRASTRUCTURE, message, fix) from error


def _dvc_add(root: Path, target: Path) -> None:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)  # its advice goes to standard output, among a command's results
    try:
        with Repo(str(root), config={"cache": {"type": ["hardlink", "copy"]}}) as repo:
            repo.add(str(target))
    except (DvcException, OSError) as error:
        message = f"{target} could not be put under DVC: {error.__cause__ or error}".replace("\n", "; ")
        raise StageError(FailureClass.INFRASTRUCTURE, message, "check the space of the disk that .dvc/cache is on") from error
