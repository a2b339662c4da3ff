"""`mmfs weights`: the bytes of models, which DVC does not hold."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_bar import counting
from flows.cli_output import BAD_USAGE, NOT_FOUND, CommandError, Json, application, out, print_json, print_table, repository_root

Frozen = Annotated[
    Path | None, typer.Option(help="Public folder that a frozen part comes from.", exists=True, file_okay=False, show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    weights = application("Fetch the bytes of models, or turn the released ones into ours and back.")
    weights.command("pull")(pull)
    weights.command("import")(import_)
    weights.command("export")(export)
    weights.command("components")(components)
    weights.command("pin")(pin)
    app.add_typer(weights, name="weights")


def pull(json_: Json = False) -> None:
    """Fetch the bytes of every weights.json below outputs/ from MLflow into .mmfs/weights, each file checked by its sha256.

    Example: `mmfs weights pull`
    """
    root = repository_root()
    os.environ["MMFS_ROOT"] = str(root)
    records = sorted((root / "outputs").rglob("weights.json"))
    if not records:
        raise CommandError(f"there is no weights.json below {root / 'outputs'}", "run `dvc pull`, or `dvc exp apply RUN` first", NOT_FOUND)
    with counting(f"Fetching {len(records)} models") as tell:
        from components.settings import Settings, quiet
        from components.tracking.weights import WeightsRecord, fetch_weights

        quiet(os.environ)
        settings = Settings()
        fetched = {}
        for number, path in enumerate(records, 1):
            name = str(path.parent.relative_to(root))
            fetched[name] = str(fetch_weights(WeightsRecord.read(path), settings))
            tell(f"{name} fetched", number, len(records))
    if json_:
        print_json(fetched)
    else:
        print_table(("stage's outs", "weights"), list(fetched.items()))


def import_(
    source: Annotated[Path, typer.Argument(help="Folder of the released *.bin files.", exists=True, file_okay=False, show_default=False)],
    target: Annotated[Path, typer.Argument(help="New folder for safetensors and configuration.", show_default=False)],
    preset: Annotated[str, typer.Option(help="The architecture that the files hold, by the name of its preset.")] = "release_13b",
    image_px: Annotated[
        int | None, typer.Option(help="Side of the encoder's input; the position table is resized for it.", show_default=False)
    ] = None,
    vision: Frozen = None,
    language: Frozen = None,
    diffusion: Frozen = None,
    json_: Json = False,
) -> None:
    """Turn the released weights into a folder that mmfs reads. Nothing but tensors is unpickled, one file at a time.

    With --vision, --language or --diffusion, frozen parts that the files leave out are taken from there.

    Example: `mmfs weights import mm_interleaved_pretrain weights/release`
    """
    with counting("Reading the files") as tell:
        from components.frozen_parts import FrozenFolders
        from components.official_weights import import_release

        done = import_release(source, target, preset, image_px, tell, FrozenFolders(vision, language, diffusion))
    if json_:
        print_json(asdict(done) | {"target": str(target)})
    else:
        out().print(f"{done.tensors} tensors, {done.values:,} values from {done.files} files into {target}")
        for file, count in done.from_public.items():
            out().print(f"{count} tensors that these lack from {file}")
        for what, names in (("renamed", done.renamed), ("left out", done.left_out)):
            if names:
                out().print(f"{what}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}")


def components(
    target: Annotated[Path, typer.Argument(help="New folder for the model.", show_default=False)],
    vision: Annotated[Path, typer.Option(help="Folder of a CLIP or SigLIP.", exists=True, file_okay=False)],
    language: Annotated[Path, typer.Option(help="Folder of a Llama, Mistral, Qwen2 or Qwen3.", exists=True, file_okay=False)],
    diffusion: Annotated[Path, typer.Option(help="Folder of a Stable Diffusion pipeline.", exists=True, file_okay=False)],
    visual_tokens: Annotated[int, typer.Option(min=1, help="Visual tokens per image.")] = 64,
    condition_heads: Annotated[int, typer.Option(min=1, help="Heads of the resampler before the image decoder.")] = 16,
    seed: Annotated[int, typer.Option(help="Of the parts that begin from nothing.")] = 0,
    json_: Json = False,
) -> None:
    """Put a model together from public folders on this machine; components.json pins every file by its digest.

    A run starts from it with `--init weights:FOLDER`, or puts it together itself with `--init components:FOLDER`.

    Example: `mmfs weights components weights/start --vision clip-l --language vicuna-13b --diffusion sd-2-1-base`
    """
    with counting("Reading the components") as tell:
        from components.public_components import PublicFolders, assemble

        folders = PublicFolders(vision, language, diffusion)
        config = assemble(folders, target, visual_tokens=visual_tokens, condition_heads=condition_heads, seed=seed, progress=tell)
    if json_:
        print_json({"target": str(target), "vocabulary": config.vocab_size, "family": config.language.family})
    else:
        out().print(f"{config.language.family} of width {config.language.width} with {config.vocab_size} entries into {target}")


def pin(
    start: Annotated[str, typer.Argument(help="weights:FOLDER, components:FOLDER or models:/NAME@ALIAS.", show_default=False)],
    json_: Json = False,
) -> None:
    """Print a start with the digest of what lies there now, as `init_from` in params.yaml wants it for a bare `dvc repro`.

    Example: `mmfs weights pin models:/mmfs-vqa@champion`
    """
    root = repository_root()
    from components.settings import Settings, quiet
    from components.start import Start

    try:
        asked = Start.parse(start)
    except ValueError as error:
        raise CommandError(str(error), "docs/starting.md explains each", BAD_USAGE) from None
    if not asked.is_external:
        raise CommandError(f"{asked} needs no digest", "write it into params.yaml as it is", BAD_USAGE)
    quiet(os.environ)
    from components.start_pins import pin as held

    found = str(held(asked, Settings(root=root), "init_from"))
    if json_:
        print_json({"init_from": found})
    else:
        out().print(found)


def export(
    source: Annotated[Path, typer.Argument(help="Folder of a model.", exists=True, file_okay=False, show_default=False)],
    target: Annotated[Path, typer.Argument(help="New folder for *.bin files.", show_default=False)],
    json_: Json = False,
) -> None:
    """Write a model as *.bin files that the official code loads.

    Example: `mmfs weights export weights/release for_the_official_code`
    """
    with counting("Writing the files") as tell:
        from components.official_weights import export_release

        files = export_release(source, target, tell)
    if json_:
        print_json({"files": files, "target": str(target)})
    else:
        out().print(f"{files} files into {target}")
