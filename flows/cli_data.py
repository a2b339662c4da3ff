"""`mmfs data`: corpora under DVC, what a data version holds and what changed between two."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import cli_curation, cli_look
from flows.cli_output import Json, application, out, print_json, print_table, repository_root, working

if TYPE_CHECKING:
    from components.data_versions import DataVersion, Difference

Version = Annotated[
    str | None, typer.Argument(metavar="[REV]", help="A run, a DVC experiment or a git revision; else what lies here.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    data = application("Put corpora under DVC; see what a data version holds and what changed.")
    data.command("add")(add)
    data.command("show")(show)
    data.command("diff")(diff)
    cli_curation.register(data)
    cli_look.register(data)
    app.add_typer(data, name="data")


def add(
    name: Annotated[str, typer.Argument(help="What its documents and shards are called: a-z, 0-9 and _.", show_default=False)],
    path: Annotated[Path, typer.Argument(help="The corpus's folder, as it was published.", exists=True, file_okay=False)],
    format_: Annotated[str, typer.Option("--format", help="How it is read; docs/data.md lists the formats.")] = "documents",
    split: Annotated[str, typer.Option(help="What it is for: train or evaluation.")] = "train",
    licence: Annotated[str, typer.Option(help="What allows its use, where its documents do not say it.")] = "unknown",
    options: Annotated[
        list[str] | None, typer.Option("--option", help="What only this format knows; may be repeated.", metavar="KEY=VALUE")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Add it to the overlay params/NAME.yaml.", metavar="NAME", show_default=False)] = None,
    json_: Json = False,
) -> None:
    """Check a corpus's first documents and put it under DVC as data/corpora/NAME. Commit the .dvc file that pins it.

    Its files are copied once; with PATH data/corpora/NAME, where you moved it yourself, not at all. The same command pins what changed.

    Example: `mmfs data add mmc4 /datasets/mmc4 --format mmc4 --licence ODC-BY --preset paper`
    """
    root = repository_root()
    with working(f"Looking at {path}") as tell:
        from components.corpora import look, parameters, pin, write_overlay
        from components.data.preparation.inputs import limits
        from components.params import load, parse_corpus
        from components.run.paths import Paths
        from components.settings import quiet

        quiet(os.environ)
        values = {"name": name, "format": format_, "split": split, "licence": licence}
        corpus = parse_corpus(values, options or ())
        found = look(corpus, path, limits(load(root / "params.yaml").data))
        tell(f"Putting {path} under DVC")
        pinned = pin(Paths(root), name, path)
        overlay = write_overlay(root, preset, corpus) if preset else None
    pin_name = str(pinned.file.relative_to(root))
    if json_:
        looked = {"documents": found.documents, "kinds": dict(found.kinds), "images": found.images, "rejected": found.rejected.total}
        told = {"corpus": name, "pin": pin_name, "digest": pinned.digest, "files": pinned.files, "bytes": pinned.bytes}
        print_json(told | {"input_shards": found.units, "looked_at": looked, "overlay": str(overlay) if overlay else None})
        return
    console = out()
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.kinds.items())
    console.print(
        f"{name}: {pinned.files} files, {pinned.bytes:,} bytes, {found.units} input shards; looked at: {kinds}, {found.images} images"
    )
    if found.rejected.total:
        console.print(f"unusable among these: {found.rejected.total}: {found.rejected.line()}")
    console.print(f"pinned in {pin_name} — git add {pin_name} data/corpora/.gitignore && git commit; `dvc push {pin_name}` shares it")
    if overlay:
        console.print(f"run it with: mmfs run --preset {preset}")
    else:
        import yaml

        entry = yaml.safe_dump({"data": {"source": "corpora", "corpora": [parameters(corpus)]}}, sort_keys=False)
        console.print(f"in params.yaml or an overlay (--preset NAME writes one):\n{entry}", end="")


def show(revision: Version = None, json_: Json = False) -> None:
    """Tell what a data version holds: documents, images and text tokens by source and kind, and what was left out.

    Example: `mmfs data show latest`
    """
    with working("Opening the data version"):
        version = _open(revision)
        counts = version.counts()
    if json_:
        print_json({"version": version.name, "digest": version.digest} | {key: value for key, value in counts.items() if key != "version"})
        return
    out().print(f"{version.name}" + (f", index {version.digest[:12]}" if version.digest else ""))
    columns = ("source", "kind", "split", "documents", "images", "text tokens")
    rows = [tuple(one[key] for key in ("source", "kind", "split", "documents", "images", "tokens")) for one in counts["documents"]]
    total = [sum(one[key] for one in counts["documents"]) for key in ("documents", "images", "tokens")]
    print_table(columns, [*rows, ("all", "", "", *total)])
    for sort in ("quarantined", "missing"):
        if counts.get(sort):
            out().print(f"\n{sort}")
            print_table(("corpus", "documents", "most frequent"), [_refused(one) for one in counts[sort]])
    if counts["dropped"]:
        out().print("\ndropped by filters")
        dropped = [(one["corpus"], one["filter"], one["documents"], one["images"]) for one in counts["dropped"]]
        print_table(("corpus", "filter", "documents", "single images"), dropped)
    for one in counts.get("notes", ()):
        out().print(f"\n{one['note']}")


def diff(
    before: Annotated[str, typer.Argument(metavar="REV1", help="A run, a DVC experiment or a git revision.", show_default=False)],
    after: Annotated[str | None, typer.Argument(metavar="[REV2]", help="Another; else what lies here.", show_default=False)] = None,
    first: Annotated[int, typer.Option(min=0, help="Ids shown of what was added, removed and changed.")] = 10,
    json_: Json = False,
) -> None:
    """Tell what changed between two data versions: figures by source and kind, and documents by id.

    Example: `mmfs data diff main latest`
    """
    with working("Comparing the data versions"):
        from components.data_versions import difference

        found = difference(_open(before), _open(after), first)
    if json_:
        print_json(asdict(found))
        return
    console = out()
    if not (found.changes or any(found.counts.values())):
        console.print(f"{found.before} and {found.after} hold the same documents")
    if found.changes:
        rows = [
            (one.source, one.kind, one.split, one.figure, one.before, one.after, _signed(one.after - one.before)) for one in found.changes
        ]
        print_table(("source", "kind", "split", "figure", "before", "after", "change"), rows)
    _print_documents(found)
    for sort, (old, new) in (("quarantined", found.quarantined), ("missing", found.missing), ("dropped", found.dropped)):
        if old != new:
            console.print(f"{sort}: {old} before, {new} after")


def _open(revision: str | None) -> DataVersion:
    from components.data_versions import open_version
    from components.settings import quiet

    quiet(os.environ)
    return open_version(repository_root(), revision)


def _print_documents(found: Difference) -> None:
    for sort, ids in (("added", found.added), ("removed", found.removed), ("changed", found.changed)):
        if count := found.counts[sort]:
            rest = f" and {count - len(ids)} more" if count > len(ids) else ""
            out().print(f"{sort}: {count} documents: {', '.join(ids)}{rest}")


def _refused(one: dict[str, Any]) -> tuple[object, ...]:
    reasons = "; ".join(f"{reason['count']}x {reason['where']}: {reason['reason']}" for reason in one["reasons"][:3])
    return (one["corpus"], one["documents"], reasons)


def _signed(number: int) -> str:
    return f"{number:+d}"
