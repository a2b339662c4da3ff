"""`mmfs data card` and `mmfs data review`: a data version, and documents one by one, for people to look at."""

from __future__ import annotations

import getpass
import os
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_output import BAD_USAGE, CommandError, Json, out, print_json, repository_root, working


def register(data: typer.Typer) -> None:
    """Add the commands to the group `mmfs data`."""
    data.command("card")(card)
    data.command("review")(review)


def card(
    revision: Annotated[
        str | None,
        typer.Argument(metavar="[REV]", help="A run, a DVC experiment or a git revision; else what lies here."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the page goes.", dir_okay=False)] = Path("data-card.html"),
    samples: Annotated[int, typer.Option(min=0, max=50, help="Documents shown of each source and kind.")] = 3,
    json_: Json = False,
) -> None:
    """Write the data card of a version: counts, lengths, origins, what filters dropped and what could not be used, with sample documents.

    One HTML file that needs no network; samples are read by hash from the shards, the cache or the remote.

    Example: `mmfs data card latest -o card.html`
    """
    root = repository_root()
    with working("Making the data card"):
        from components.data.card.page import make_card, render
        from components.data.index import Index
        from components.data.places import shard_places
        from components.data.reader import DocumentReader
        from components.data_versions import open_version
        from components.run.filetree import write_whole
        from components.run.paths import Paths
        from components.settings import Settings, quiet

        os.environ["MMFS_ROOT"] = str(root)
        quiet(os.environ)
        version = open_version(root, revision)
        reader = DocumentReader(index := Index(version.folder), shard_places(Paths(root), Settings()))
        try:
            write_whole(output, render(make_card(index, reader, f"Data version {version.name}", samples)))
        finally:
            reader.close()
    if json_:
        print_json({"version": version.name, "digest": version.digest, "card": str(output.resolve())})
    else:
        out().print(f"{output} is the data card of {version.name}")


def review(
    folder: Annotated[
        Path, typer.Argument(help="Folder in our own form: documents.jsonl and pictures.", exists=True, file_okay=False, show_default=False)
    ],
    target: Annotated[Path, typer.Argument(help="New folder of the reviewed version.", show_default=False)],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve a page on which a person accepts, rejects and edits documents and moves their pictures; Ctrl-C ends it, a next call goes on.

    Decisions are kept in .mmfs/reviews. What the page writes to TARGET becomes a version with `mmfs data add`.

    Example: `mmfs data review data/curated data/reviewed`
    """
    root = repository_root()
    if target.exists():
        raise CommandError(f"{target} exists", "name a new folder for the reviewed version", BAD_USAGE)
    with working(f"Reading {folder}"):
        from components.data.review.review import Review
        from components.data.review.serve import open_desk
        from components.run.paths import Home

        opened = Review(folder, Home(root).folder / "reviews")
    with open_desk(opened, target, getpass.getuser(), port) as desk:
        out().print(f"{len(opened.documents)} documents to review: {desk.address}", soft_wrap=True)
        if open_:
            webbrowser.open(desk.address)
        desk.run()
    if target.exists():
        out().print(f"pin it: mmfs data add NAME {target}", soft_wrap=True)
