"""`mmfs generate`: texts and images in, an illustrated page or picture out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_output import BAD_DATA, BAD_USAGE, NOT_FOUND, CommandError, Json, notes, out, print_json, repository_root, working

SUFFIXES = (".html", ".png")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(generate)


def generate(
    text: Annotated[
        list[str] | None,
        typer.Option(help="Text of the prompt; may be repeated. `{image}` says where a picture stands.", show_default=False),
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="Picture of the prompt; may be repeated.", metavar="PATH", show_default=False)
    ] = None,
    model: Annotated[str, typer.Option(help="A registered or logged model, as MLflow names it.")] = "models:/mmfs-story@champion",
    output: Annotated[
        list[Path] | None, typer.Option("--out", help="Page (.html) or picture (.png) to write; may be repeated.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal pictures.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate at most, pictures not counted.")] = 96,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps of a picture.")] = 20,
    guidance: Annotated[float, typer.Option(min=0, help="Classifier-free guidance; 1 is none.")] = 2.0,
    image_guidance: Annotated[float, typer.Option(min=0, help="Guidance towards the pictures given; 1 is none.")] = 1.0,
    temperature: Annotated[float, typer.Option(min=0, help="Tokens are drawn at this temperature; 0 takes the likeliest.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Draw from the likeliest tokens of this mass only.")] = 1.0,
    beams: Annotated[int, typer.Option(min=1, help="Texts followed at once in a beam search; not with a temperature.")] = 1,
    length_penalty: Annotated[float, typer.Option(help="Of a beam search; above 0 longer texts win, below 0 shorter ones.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, tokens said before are less likely.")] = 1.0,
    min_new_tokens: Annotated[int, typer.Option(min=0, help="Tokens before a text may end.")] = 0,
    json_: Json = False,
) -> None:
    """Let a model continue a prompt of texts and images; it decides itself where pictures come and when it stops.

    Pictures stand where a text says `{image}`, in the order given; those that no text claims come first.

    Example: `mmfs generate --text "{image} what digit is northwest?" --image examples/scene.png --model models:/mmfs-vqa@champion`

    Example: `mmfs generate --text "northwest a red 3 walks clockwise and meets a blue 7." --out story.html --out story.png`
    """
    prompt, pictures, targets = "\n".join(text or ()), tuple(image or ()), tuple(output or ())
    _check(prompt, pictures, targets)
    os.environ["MMFS_ROOT"] = str(repository_root())
    with working("Loading the model and generating"):
        from components.data.pictures import PictureError, decode
        from components.run.filetree import write_whole
        from components.serving.client import ask
        from components.serving.items import MAX_PICTURE_PIXELS, Options, Prompt
        from components.settings import Settings, quiet

        quiet(os.environ)
        given = [path.read_bytes() for path in pictures]
        for path, data in zip(pictures, given, strict=True):
            try:
                decode(data, MAX_PICTURE_PIXELS)
            except PictureError as error:
                raise CommandError(f"{path} cannot be used: {error}", "give a PNG, JPEG, GIF or WEBP picture", BAD_DATA) from None
        request = Prompt.of(prompt, given)
        options = Options(
            seed=seed,
            max_new_tokens=max_new_tokens,
            steps=steps,
            guidance=guidance,
            image_guidance=image_guidance,
            temperature=temperature,
            top_p=top_p,
            beams=beams,
            length_penalty=length_penalty,
            repetition_penalty=repetition_penalty,
            min_new_tokens=min_new_tokens,
        )
        answer = ask(Settings(), model, request, options)
    for target in targets:
        write_whole(target, answer.page() if target.suffix == ".html" else answer.sheet())
    if json_:
        print_json(answer.as_json() | {"files": [str(target) for target in targets]})
        return
    console = out()
    console.print(answer.as_text())
    notes().print(f"{answer.model_uri}, run {answer.run_id}")
    for target in targets:
        console.print(f"wrote {target}")


def _check(prompt: str, pictures: tuple[Path, ...], targets: tuple[Path, ...]) -> None:
    if not prompt and not pictures:
        raise CommandError("the prompt is empty", "give --text, --image or both; see `mmfs generate --help`", BAD_USAGE)
    if (places := prompt.count("{image}")) > len(pictures):
        raise CommandError(
            f"the text asks for {places} pictures, {len(pictures)} were given", "give one --image for each {image}", BAD_USAGE
        )
    if absent := [str(path) for path in pictures if not path.is_file()]:
        raise CommandError(f"no such picture: {', '.join(absent)}", status=NOT_FOUND)
    if odd := [str(path) for path in targets if path.suffix not in SUFFIXES]:
        raise CommandError(f"cannot write {', '.join(odd)}", "end the name in .html or .png", BAD_USAGE)
