"""`mmfs data caption` and `mmfs data curate`: texts for pictures that have none, and documents from videos."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_bar import counting
from flows.cli_output import BAD_USAGE, UNAVAILABLE, CommandError, Json, out, print_json, print_table, repository_root

Model = Annotated[
    Path | None, typer.Option(help="Folder of an image-to-text model, safetensors.", exists=True, file_okay=False, show_default=False)
]
Endpoint = Annotated[bool, typer.Option("--endpoint", help="Ask the endpoint of MMFS_VLM_ENDPOINT instead of a local model.")]
Clip = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a CLIP or SigLIP; its score becomes the fact `alignment`.", exists=True, file_okay=False, show_default=False
    ),
]
Values = Annotated[
    Path | None,
    typer.Option("--params", help="YAML file of parameters (docs/curation.md).", exists=True, dir_okay=False, show_default=False),
]


def register(data: typer.Typer) -> None:
    """Add the commands to the group `mmfs data`."""
    data.command("caption")(caption)
    data.command("curate")(curate)


def caption(
    folder: Annotated[
        Path, typer.Argument(help="Folder whose corpus/ holds the corpus.", exists=True, file_okay=False, show_default=False)
    ],
    format_: Annotated[str, typer.Option("--format", help="How the files of corpus/ are read.", show_default=False)],
    option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE, an option of the format; may be repeated.", show_default=False)
    ] = None,
    model: Model = None,
    endpoint: Endpoint = False,
    prompt: Annotated[str | None, typer.Option(help="Asked with every picture.", show_default=False)] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Caption also what has a text; the text is kept as a field.")] = False,
    clip: Clip = None,
    params_file: Values = None,
    json_: Json = False,
) -> None:
    """Caption the pictures of a corpus that wait for it: a file per input shard in FOLDER/captions; a rerun makes what is missing.

    Use the corpus with format `captioned` and the option `of=FORMAT`.

    Example: `mmfs data caption data/input/objects365 --format objects365 --model blip2-opt-2.7b`
    """
    _one_of(model, endpoint)
    root = repository_root()
    _be_quiet()
    with counting(f"Captioning {folder.name}") as tell:
        from components.curation_params import load_captioning
        from components.data.captioning.alignment import Alignment
        from components.data.captioning.corpus import CorpusCaptioner
        from components.data.captioning.files import CORPUS_FOLDER
        from components.data.captioning.opening import open_captioner
        from components.data.sources.formats import open_source
        from components.data.sources.source import Limits
        from components.params import CorpusParams, load
        from components.settings import Settings

        if not (folder / CORPUS_FOLDER).is_dir():
            raise CommandError(f"{folder} has no {CORPUS_FOLDER}/", f"move the corpus's files into {folder / CORPUS_FOLDER}", BAD_USAGE)
        params = load_captioning(params_file)
        params = params.model_copy(update={"prompt": params.prompt if prompt is None else prompt, "replace": replace or params.replace})
        data = load(root / "params.yaml").data
        limits = Limits(data.max_image_pixels, data.max_text_bytes, data.max_document_images)
        corpus = CorpusParams(name="corpus", format=format_, options=_options(option or []))
        source = open_source(corpus, folder / CORPUS_FOLDER, limits)
        captioner = open_captioner(model, Settings(), params.local, params.endpoint, limits.image_pixels)
        alignment = Alignment(clip, limits.image_pixels) if clip else None
        done = CorpusCaptioner(source, folder, captioner, params, alignment).run(tell)
    if json_:
        print_json(asdict(done) | {"folder": str(folder)})
    else:
        out().print(f"{done.captioned} captions in {done.made} new and {done.kept} kept shards, {done.failed} pictures without one")
    if done.failed_units:
        name, reason = next(iter(done.failed_units.items()))
        raise CommandError(f"{len(done.failed_units)} shards are not captioned, such as {name}: {reason}", "run it again", UNAVAILABLE)


def curate(
    videos: Annotated[Path, typer.Argument(help="Folder of videos.", exists=True, file_okay=False, show_default=False)],
    target: Annotated[Path, typer.Argument(help="Folder of the documents; TARGET.units beside it keeps the work.", show_default=False)],
    model: Model = None,
    endpoint: Endpoint = False,
    maniqa: Annotated[
        Path | None, typer.Option(help="Folder of a MANIQA plug-in.", exists=True, file_okay=False, show_default=False)
    ] = None,
    raft: Annotated[Path | None, typer.Option(help="Folder of a RAFT plug-in.", exists=True, file_okay=False, show_default=False)] = None,
    dinov2: Annotated[Path | None, typer.Option(help="Folder of a DINOv2.", exists=True, file_okay=False, show_default=False)] = None,
    clip: Clip = None,
    params_file: Values = None,
    json_: Json = False,
) -> None:
    """Turn videos into documents: windows of frames, filters, three-level captions, self-reflection. A rerun makes what is missing.

    Without a model and an endpoint the frames are made, and the documents wait for their texts in TARGET/waiting.jsonl.

    Example: `mmfs data curate videos data/input/curated --endpoint`
    """
    if model is not None or endpoint:
        _one_of(model, endpoint)
    _be_quiet()
    with counting(f"Curating {videos.name}") as tell:
        from components.curation_params import load_curation
        from components.data.captioning.alignment import Alignment
        from components.data.captioning.opening import open_captioner
        from components.data.curation.curator import Curator
        from components.data.curation.measures import FarnebackFlow, HistogramDifference, Instruments
        from components.data.curation.plugins import DinoDifference, Maniqa, Raft
        from components.data.curation.telling import Teller
        from components.settings import Settings

        params = load_curation(params_file)
        instruments = Instruments(
            flow=Raft(raft) if raft else FarnebackFlow(),
            difference=DinoDifference(dinov2) if dinov2 else HistogramDifference(),
            quality=Maniqa(maniqa) if maniqa else None,
        )
        settings, levels, pixels = Settings(), params.captions, params.video.side_px**2
        teller = None
        if model is not None or endpoint:
            captioner = open_captioner(model, settings, levels.local, levels.endpoint, pixels)
            judge = None
            if levels.judge_model is not None:
                asked = levels.endpoint.model_copy(update={"model": levels.judge_model})
                judge = open_captioner(None, settings, levels.local, asked, pixels)
            teller = Teller(captioner, levels, judge)
        alignment = Alignment(clip, pixels) if clip else None
        metrics = Curator(videos, target, params, instruments, teller, alignment).run(tell)
    if json_:
        print_json({"target": str(target), "unavailable": instruments.unavailable(), **metrics})
    else:
        print_table(("count", "value"), [(name, f"{value:g}") for name, value in metrics.items()])
        if missing := instruments.unavailable():
            out().print(f"unavailable: {', '.join(missing)}")


def _be_quiet() -> None:
    """Before transformers is imported, which reads then whether it may ask a hub."""
    from components.settings import quiet

    quiet(os.environ)


def _one_of(model: Path | None, endpoint: bool) -> None:
    if (model is None) == (not endpoint):
        raise CommandError("one captioner is needed", "name --model FOLDER or --endpoint", BAD_USAGE)


def _options(given: list[str]) -> dict[str, str | int | float | bool]:
    import yaml

    found: dict[str, str | int | float | bool] = {}
    for one in given:
        key, equals, text = one.partition("=")
        value = yaml.safe_load(text) if equals else None
        if not isinstance(value, str | int | float | bool):
            raise CommandError(f"--option {one!r} is not KEY=VALUE", "such as --option of=img2dataset", BAD_USAGE)
        found[key] = value
    return found
