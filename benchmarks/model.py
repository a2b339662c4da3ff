"""The model on two cores: a training step and its parts, MMFS beside the official code's timings, generation, the published size without
its memory. `python -m benchmarks.model [--quick] [--json FILE]`; MMFS_GOLDEN_DIR names the official tensors.
"""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil
import torch
from torch import nn

from benchmarks.alone import PartCost, calls, cost, in_own_process, peak_gib
from benchmarks.record import Goal, Options, Row, median_row, options, publish
from benchmarks.reference_step import golden_folder, reference_step
from kernels.deformable_attention import Path as KernelPath
from kernels.testing import assert_close
from model.build import build_on_meta
from model.choosing import Choosing
from model.generation import GenerationOptions, Prompt, generate_text
from model.mm_interleaved import MMInterleaved
from model.mmfs import MMFS
from model.mmfs_net import MMFSNet
from model.presets import preset
from model.sequence import pairs_from_mask, plan
from model.weights import OPTIONAL_KEYS

ROOT = Path(__file__).resolve().parents[1]
CORES = 2
PATHS: tuple[KernelPath, ...] = ("torch", "naive")
STEP = "2 rows, 6 images, 128 px out"


Way = Callable[[MMInterleaved, Prompt, int], tuple[int, ...]]


@dataclass(frozen=True)
class Step:
    """One training step, weights and optimizer aside, in a process of its own."""

    text_loss: float
    loss: float
    forward: float
    both: float
    peak_gib: float


@dataclass(frozen=True)
class Peer:
    """A published timing of the official MMFS (mm_interleaved.md 9): the lowest of each range, forward and forward+backward in seconds."""

    case: str
    image_decoder: bool
    queries: int
    images: int
    threads: int
    forward: float
    both: float


PEERS = (
    Peer("MMFS, 5120 wide, 256 queries, 4 images", False, 256, 4, 2, 0.83, 1.20),
    Peer("MMFS, 5120 wide, 64 queries, 2 images, 1 thread", False, 64, 2, 1, 0.126, 0.459),
    Peer("MMFS, 320 wide, 4096 queries, 1 image", True, 4096, 1, 2, 1.70, 5.44),
)


def main() -> None:
    asked = options("cost of the model")
    torch.set_num_threads(CORES)
    if golden_folder() is None:
        print(
            "MMFS_GOLDEN_DIR names no folder of official tensors: weights from a seed, both paths checked against each other",
            file=sys.stderr,
        )
    rows = [*steps(asked), *parts(asked), *peers(asked), *generation(asked), *published(asked)]
    publish("model", rows, asked)


def steps(asked: Options) -> list[Row]:
    """The whole step, by both paths of deformable sampling."""
    done = {path: [in_own_process(step, path) for _ in range(asked.repetitions)] for path in PATHS}
    losses = [each.loss for path in PATHS for each in done[path]]
    assert_close(torch.tensor(losses), torch.full((len(losses),), losses[0]), "model", "losses of both paths")
    check = "both paths give one loss" if golden_folder() is None else "text loss is the official one, both paths give one loss"
    rows = []
    for path, every in done.items():
        case = f"{STEP}, {path} path"
        rows += [
            median_row(case, "forward", [each.forward for each in every], "s", check),
            median_row(case, "forward+backward", [each.both for each in every], "s", check),
            median_row(case, "peak memory of the process", [each.peak_gib for each in every], "GiB", check),
        ]
    return rows


def step(path: KernelPath) -> Step:
    """The first step of a process. Raises AssertionError when the text loss is not that of the official code, where that is known."""
    torch.set_num_threads(CORES)
    known = reference_step(golden_folder(), path)
    started = time.perf_counter()
    output = known.model(known.batch)
    forward = time.perf_counter() - started
    output.loss.backward()
    both = time.perf_counter() - started
    if known.text_loss is not None:
        assert_close(output.text_loss, known.text_loss, "model", "text loss")
    return Step(output.text_loss.item(), output.loss.item(), forward, both, peak_gib())


def parts(asked: Options) -> list[Row]:
    """The step's modules, each alone on the inputs it has there."""
    rows = []
    check = "output is that of the step"
    for path in PATHS:
        known = reference_step(golden_folder(), path)
        seen = calls(_parts(known.model, path), partial(known.model, known.batch))
        for name, own in seen.items():
            every: list[PartCost] = [cost(own) for _ in range(asked.repetitions)]
            case = f"{name}, {path} path" if path == "naive" else name
            rows += [
                median_row(case, "forward", [each.forward for each in every], "s", check),
                median_row(case, "forward+backward", [each.both for each in every], "s", check),
                median_row(case, "kept for the gradient", [each.kept / 2**20 for each in every], "MiB", check),
            ]
    return rows


def _parts(model: MMInterleaved, path: KernelPath) -> dict[str, list[nn.Module]]:
    """Modules by name; by the naive path those that sample."""
    part = model.get_submodule
    net = part("image_decoder.decoder.mmfs_module")
    assert isinstance(net, MMFSNet)  # the release's wiring
    sampling: dict[str, list[nn.Module]] = {
        "MMFS of the language model": [module for name, module in model.mm_decoder.named_modules() if name.endswith("llama_cross_attn")],
        "MMFS of the image decoder": [*net.mmfs_down_blocks, net.mmfs_mid_block],
    }
    if path == "naive":
        return sampling
    return {
        **sampling,
        "encoder with adapter": [part("visual_tokenizer.encoder")],
        "visual resampler": [model.visual_tokenizer.perceiver_resampler],
        "language model with MMFS": [model.mm_decoder],
        "text head": [model.text_decoder],
        "condition resampler": [part("image_decoder.perceiver_resampler")],
        "autoencoder": [part("image_decoder.decoder.vae.encoder")],
        "image decoder with MMFS": [part("image_decoder.decoder")],
    }


def peers(asked: Options) -> list[Row]:
    """MMFS at published widths; every query sees every image. The official code's figures are from a machine of two cores under load."""
    rows = []
    for peer in PEERS[1:2] if asked.quick else PEERS:
        every = [_peer_case(peer) for _ in range(asked.repetitions)]
        check = "output is that of the naive path"
        for metric, values, theirs in (
            ("forward", [each.forward for each in every], peer.forward),
            ("forward+backward", [each.both for each in every], peer.both),
        ):
            row = median_row(peer.case, metric, values, "s", check)
            rows.append(replace(row, peer=theirs, ratio=row.value / theirs))
    return rows


def _peer_case(peer: Peer) -> PartCost:
    config = preset("release_13b", vocab_size=32000)
    torch.manual_seed(0)
    torch.set_num_threads(peer.threads)
    if peer.image_decoder:
        width, sampler, base = (
            config.image_decoder.unet["block_out_channels"][0],
            config.image_decoder.mmfs,
            config.image_decoder.position_grid,
        )
    else:
        width, sampler, base = config.language.width, config.language.mmfs, config.language.mmfs_base
    module = MMFS(width, config.value_width, sampler, base)
    nn.init.normal_(module.sampling_offsets.bias)
    query = torch.randn(peer.queries, width, requires_grad=True)
    features = torch.randn(peer.images, config.value_cells(sampler), config.value_width, requires_grad=True)
    reference, pairs = torch.rand(peer.queries, 2), pairs_from_mask(torch.ones(1, peer.queries, peer.images))
    module.path = "naive"
    with torch.no_grad():
        expected = module(query, module.project(features), reference, pairs)
    module.path = "torch"
    for _ in range(2):
        started = time.perf_counter()
        output = module(query, module.project(features), reference, pairs)
        forward = time.perf_counter() - started
        output.sum().backward()
        both = time.perf_counter() - started
    assert_close(output, expected, "module", peer.case)
    torch.set_num_threads(CORES)
    return PartCost(forward, both, 0)


def generation(asked: Options) -> list[Row]:
    """Tokens a second after a prompt of two pictures, one sequence."""
    known = reference_step(golden_folder())
    model, tokens = known.model, 8 if asked.quick else 64
    first, second = known.batch.images[:2]
    prompt = Prompt("a", (tuple(range(10, 22)), first, tuple(range(30, 42)), second, tuple(range(50, 56))))
    ways: dict[str, Way] = {"with caches": _with_caches, "without": _without}
    timed = {name: [_told(way, model, prompt, tokens) for _ in range(asked.repetitions)] for name, way in ways.items()}
    if len({ids for every in timed.values() for ids, _ in every}) > 1:
        raise RuntimeError("tokens with caches are not those without")
    check = "the same tokens with and without"
    case = f"{tokens} tokens after 2 images"
    return [median_row(case, name, [rate for _, rate in every], "tokens/s", check) for name, every in timed.items()]


def _told(way: Way, model: MMInterleaved, prompt: Prompt, tokens: int) -> tuple[tuple[int, ...], float]:
    """The tokens, and how many a second after the first, which waits for the prompt to be read."""
    seconds = []
    for count in (1, tokens):
        started = time.perf_counter()
        ids = way(model, prompt, count)
        seconds.append(time.perf_counter() - started)
    return ids, (tokens - 1) / (seconds[1] - seconds[0])


def _with_caches(model: MMInterleaved, prompt: Prompt, tokens: int) -> tuple[int, ...]:
    options = GenerationOptions(max_new_tokens=tokens, choosing=Choosing(min_new_tokens=tokens))
    return generate_text(model, [prompt], options)[0]


@torch.no_grad()
def _without(model: MMInterleaved, prompt: Prompt, tokens: int) -> tuple[int, ...]:
    """The whole row is read again for each token; only the pictures are encoded once."""
    config = model.config
    special, visual = config.tokens, config.visual_resampler.queries
    ids, columns, pictures = [special.bos], [], []
    for item in prompt.items:
        if isinstance(item, torch.Tensor):
            columns.append(len(ids))
            pictures.append(item)
            ids += [special.boi, *[special.image] * visual]
        else:
            ids += item
    features = model.visual_tokenizer(torch.stack(pictures))
    begun, count = len(ids), len(columns)
    step = reference_step(None).batch
    for _ in range(tokens):
        row = torch.tensor([ids])
        one = torch.ones_like(row)
        batch = replace(
            step,
            text_ids=row,
            attention_mask=one.bool(),
            document_ids=one,
            targets_mask=torch.zeros_like(one, dtype=torch.bool),
            images=torch.stack(pictures),
            target_images=step.target_images[:count],
            image_row=torch.zeros(count, dtype=torch.int64),
            image_column=torch.tensor(columns),
            image_loss_mask=torch.zeros(count, dtype=torch.bool),
            drop_condition=step.drop_condition[:count],
            timesteps_u=step.timesteps_u[:count],
            noise=step.noise[:count],
        )
        hidden = model.hidden_states(row, features, plan(batch, config))
        logits = model.text_decoder(hidden[0, -1])
        logits[[special.pad, special.bos, special.eos, special.boi, special.image]] = -torch.inf
        ids.append(int(logits.argmax()))
    return tuple(ids[begun:])


def published(asked: Options) -> list[Row]:
    """The released size on the meta device."""
    every = [in_own_process(_on_meta) for _ in range(asked.repetitions)]
    check = "names and shapes are the 2,658 of the released weights"
    return [
        median_row("release_13b on the meta device", "instantiation", [made for made, _, _ in every], "s", check, Goal(60)),
        median_row("release_13b on the meta device", "process from its start", [whole for _, whole, _ in every], "s", check),
        median_row("release_13b on the meta device", "peak memory of the process", [peak for _, _, peak in every], "GiB", check, Goal(4)),
    ]


def _on_meta() -> tuple[float, float, float]:
    started = time.perf_counter()
    model = build_on_meta(preset("release_13b", vocab_size=32000))
    made = time.perf_counter() - started
    whole, peak = time.time() - psutil.Process().create_time(), peak_gib()
    table = gzip.decompress((ROOT / "tests" / "data" / "release_keys.tsv.gz").read_bytes()).decode()
    released = dict(line.split("\t") for line in table.splitlines())
    ours = {name: "x".join(map(str, tensor.shape)) for name, tensor in model.state_dict().items()}
    if ours != {name: shape for name, shape in released.items() if name not in OPTIONAL_KEYS}:
        raise RuntimeError("release_13b has other tensors than the released weights")
    return made, whole, peak


if __name__ == "__main__":
    main()
