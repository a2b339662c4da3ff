"""Training beside its parts: the product's step and the bare one, checkpoints, going on from one, the whole step with MMFS as published,
and on a GPU a model of billions of parameters. `python -m benchmarks.training [--quick] [--json FILE]`.

Beside a product's step stands the bare one on the same batch, in the same process: what else the machine does meets both alike, and the
ratio is the median over pairs of steps. Where it says CPU, seconds are of the processor and not of the clock.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.alone import calls, cost, in_own_process
from benchmarks.published_step import published_twin
from benchmarks.record import Goal, Options, Row, median_row, options, publish
from benchmarks.reference_step import golden_folder, made_up_batch, reference_step
from benchmarks.side_by_side import in_turn
from benchmarks.training_line import ROOT, Corpus, trained
from benchmarks.training_rank import Timing, timings_file
from components.launch.local import launch_ranks
from components.launch.warm import start_warm, warm_ranks
from components.params import Params, merge, parse, read_mapping
from components.tracking.spool import read_points
from components.training.averages import AVERAGE, AveragedAdamW, decay_at
from components.training.checkpoints.commits import COMMITS_FILE
from components.training.guards.journal import read_journal
from components.training.job import Job, write_job
from components.training.supervise import RANK_MODULE
from kernels.testing import assert_close
from model.build import build_model
from model.mm_interleaved import MMInterleaved
from model.presets import preset

CORES = 2
ADAMW: dict[str, Any] = {"lr": 1e-4, "fused": True}
SKIPPED = 4
"""Steps at the start that do not count."""
CHECKPOINT_EVERY = 100
IMPORTED_S = 20
"""A zygote has imported everything after so many seconds."""
BILLIONS = "ablation_3b"
ROUNDING = 1e-6
"""Below this share of the largest gradient a parameter's is rounding error: the bias of a key moves no softmax, so that its own is zero."""


def main() -> None:
    asked = options("cost of training")
    torch.set_num_threads(CORES)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="mmfs training ") as folder:
        line = Line(Path(folder))
        for name in ("tiny",) if asked.quick else ("tiny", "small"):
            rows += steps(line, name, asked)
        rows += checkpoints(line, "small", asked)
    rows += published_form(asked)
    rows += averages(asked)
    if torch.cuda.is_available():
        rows += in_own_process(on_gpu, asked.quick)
    publish("training", rows, asked)


@dataclass(frozen=True)
class Line:
    """A folder with a prepared corpus, in which stages are trained as `mmfs run` trains them."""

    folder: Path

    def job(self, name: str, work: str, **differs: Any) -> Job:
        """Pretraining of `params.yaml` under an overlay, on a corpus of a thousand documents; `differs` are training parameters."""
        params = parameters(name)
        train = type(params.pretrain).model_validate(params.pretrain.model_dump() | {"log_every_steps": 1, "warmup_steps": 1} | differs)
        return self._corpus.pretraining(params.model_copy(update={"seed": 0, "pretrain": train}), self.folder / work)

    @cached_property
    def _corpus(self) -> Corpus:
        data = parameters("small").data
        few = data.model_copy(update={"documents": dict.fromkeys(data.documents, 150)})
        return Corpus.prepare(self.folder / "corpus", few, self.folder / "input")


def parameters(name: str) -> Params:
    """`params.yaml`, under the overlay of a name where there is one."""
    values = read_mapping(ROOT / "params.yaml")
    overlay = ROOT / "params" / f"{name}.yaml"
    return parse(merge(values, read_mapping(overlay)) if overlay.exists() else values)


def timings(job: Job, rank: int = 0) -> list[Timing]:
    """What the pairs of a rank took."""
    return [Timing(**each) for each in json.loads(timings_file(job.work, rank).read_text(encoding="utf-8"))]


def steps(line: Line, name: str, asked: Options) -> list[Row]:
    """The product's step beside the bare one, plainly on one rank and under ZeRO 2 on two."""
    count = 12 if asked.quick else 40
    rows = []
    for ranks in (1, 2):
        every = []
        for repetition in range(asked.repetitions):
            job = line.job(name, f"{name}-{ranks}-{repetition}", ranks=ranks, steps=count, checkpoint_every_steps=count)
            trained(job, "benchmarks.training_rank")
            check_losses(job)
            every.append(timings(job)[SKIPPED:])
        how = "plain, 2 threads" if ranks == 1 else "ZeRO 2, 2 ranks of 1 thread"
        check = "the losses are those of the bare loop" if ranks == 1 else "the first loss is that of the bare loops"
        case = f"{name}, {how}, {job.train.rows_per_step} rows of {job.train.row_tokens}"
        bare = [statistics.median(pair.bare for pair in run) for run in every]
        product = [statistics.median(pair.product for pair in run) for run in every]
        shares = [statistics.median(twos(run)) for run in every]
        cpu = [sum(pair.bare_cpu for pair in run) / sum(pair.product_cpu for pair in run) for run in every]
        goal = None if asked.quick or ranks > 1 else Goal(0.95, at_most=False)
        rows += [
            median_row(case, "step, bare", bare, "s", check),
            median_row(case, "step, product", product, "s", check),
            median_row(case, "throughput against bare, by the clock", shares, "times", check, goal),
            median_row(case, "throughput against bare, CPU", cpu, "times", check),
        ]
    return rows


def twos(run: list[Timing]) -> list[float]:
    """Seconds of two bare steps over those of the product: in one of the two the product is the first that sees the batch."""
    return [(one.bare + other.bare) / (one.product + other.product) for one, other in zip(run[::2], run[1::2], strict=False)]


def check_losses(job: Job) -> None:
    """Raises AssertionError where the bare loops did not train the same. Ranks that share nothing agree in their first step alone."""
    points = read_points(job.points)[0]
    every = [timings(job, rank) for rank in range(job.train.ranks)]
    if job.train.ranks == 1:
        found = torch.tensor([pair.loss for pair in every[0]])
        assert_close(torch.tensor([point["metrics"]["loss"] for point in points[: len(found)]]), found, "model", "losses")
        return
    lowest, highest = (pick(run[0].loss for run in every) for pick in (min, max))
    if not lowest * 0.9 <= points[0]["metrics"]["loss"] <= highest * 1.1:
        raise AssertionError(f"the first loss is {points[0]['metrics']['loss']}, the bare loops have {lowest} to {highest}")


def checkpoints(line: Line, name: str, asked: Options) -> list[Row]:
    """What a checkpoint takes from training, and how soon a training that was killed goes on."""
    every = 4 if asked.quick else 10
    costs: list[tuple[float, float, float]] = []
    cold, warm = [], []
    for repetition in range(asked.repetitions):
        whole = line.job(name, f"saved-{repetition}", ranks=2, steps=4 * every + 2, checkpoint_every_steps=every)
        trained(whole, RANK_MODULE)
        costs.append(_checkpoint_cost(whole))
        whole.export.rename(whole.export.with_name("export-before"))
        cold.append(first_step(line, name, f"saved-{repetition}", whole, {}))
        with warm_ranks(os.environ, Path.cwd(), line.folder / "zygote.log") as variables:
            time.sleep(IMPORTED_S)
            warm.append(first_step(line, name, f"saved-{repetition}", whole, variables))
    check = "the checkpoints verify and the training goes on from the last one"
    case = f"{name}, ZeRO 2, 2 ranks"
    goals = (None, None) if asked.quick else (Goal(0.01), Goal(10))
    return [
        median_row(case, "a checkpoint, on the training path", [path for path, _, _ in costs], "s", check),
        median_row(case, "a checkpoint, with its commit beside training", [bound for _, bound, _ in costs], "s", check),
        median_row(case, f"the same every {CHECKPOINT_EVERY} steps", [share for _, _, share in costs], "of wall time", check, goals[0]),
        median_row(case, "from a cold start to the first step", cold, "s", check, goals[1]),
        median_row(case, "from a start as `mmfs run` makes it to the first step", warm, "s", check, goals[1]),
    ]


def _checkpoint_cost(job: Job) -> tuple[float, float, float]:
    """Medians: seconds of a checkpoint on the training path; the same with the commit beside it, as if that took all cores; and this
    bound as a share of wall time where there is a checkpoint in CHECKPOINT_EVERY steps."""
    saved = [entry.figures for entry in read_journal(job.work / COMMITS_FILE)[0] if entry.kind == "checkpoint"]
    step = statistics.median(point["metrics"]["time/step"] for point in read_points(job.points)[0][SKIPPED:])
    path = statistics.median(one["wait_s"] + one["save_s"] for one in saved)
    bound = statistics.median(one["wait_s"] + one["save_s"] + one["commit_s"] for one in saved)
    return path, bound, bound / (CHECKPOINT_EVERY * step + bound)


def first_step(line: Line, name: str, work: str, whole: Job, variables: Mapping[str, str]) -> float:
    """Seconds from the start of the ranks, the checkpoint not yet verified, to the first step after it.

    `variables` of the environment name a zygote, or none.
    """
    logged = len(read_points(whole.points)[0])
    started = time.perf_counter()
    job = line.job(name, work, ranks=2, steps=whole.train.steps + 4, checkpoint_every_steps=whole.train.checkpoint_every_steps)
    if job.resume is None:
        raise RuntimeError(f"{work}: there is no checkpoint to go on from")
    write_job(job)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", **variables}
    step = json.loads((job.resume / "cursor.json").read_text())["step"]
    point = job.points.read_bytes()
    job.points.write_bytes(b"".join(point.splitlines(keepends=True)[:step]))
    with launch_ranks(RANK_MODULE, [str(job.work)], 2, environment, job.work / "logs", start_warm) as ranks:
        while len(read_points(job.points)[0]) <= step:
            time.sleep(0.02)
            _, dead = ranks.poll()
            if dead is not None:
                raise RuntimeError(f"{work}: {dead.last_words()}")
        seconds = time.perf_counter() - started
        ranks.stop(grace_s=0)
    if logged <= step:
        raise RuntimeError(f"{work}: step {step + 1} was not trained before")
    return seconds


def published_form(asked: Options) -> list[Row]:
    """The whole step of official_tiny (forward, backward, AdamW) beside the same with every MMFS as published, in turn."""
    known = reference_step(golden_folder())
    ours, twin = known.model, published_twin(known.model)
    check = _same_step(ours, twin, known.batch)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.0, fused=True) for model in (ours, twin)]

    def once(model: MMInterleaved, optimizer: torch.optim.Optimizer) -> float:
        started = time.perf_counter()
        model(known.batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    takes: list[Callable[[], float]] = [lambda: once(ours, optimizers[0]), lambda: once(twin, optimizers[1])]
    rounds = [in_turn(takes, 1 if asked.quick else 3) for _ in range(asked.repetitions)]
    mine, theirs = (statistics.median(each) / 1e3 for each in zip(*rounds, strict=True))
    parts = {"ours": _mmfs_cost(ours, known.batch), "published": _mmfs_cost(twin, known.batch)}
    rest = mine - sum(parts["ours"].values())
    case = "official_tiny, 2 rows of 71 with 3 images each"
    goal = Goal(3, at_most=False)
    ratio = theirs / mine
    rows = [
        Row(
            case,
            "whole step",
            mine,
            "s",
            check,
            "" if asked.quick else f"ratio {goal}",
            None if asked.quick else goal.holds(ratio),
            theirs,
            ratio,
        ),
        Row(case, "Amdahl bound: the published step beside all that is not MMFS", theirs / rest, "times", check),
    ]
    for name in parts["ours"]:
        own, peer = parts["ours"][name], parts["published"][name]
        rows.append(Row(case, f"{name}, forward+backward", own, "s", "output is that of the step", peer=peer, ratio=peer / own))
    rows.append(Row(case, "all the rest and AdamW", rest, "s", check))
    return rows


def averages(asked: Options) -> list[Row]:
    """AdamW that keeps an average of the weights beside AdamW, on as many numbers as the smaller presets have."""
    plain, averaged = _weights(), _weights()
    optimizers = (torch.optim.AdamW([{"params": plain}], **ADAMW), AveragedAdamW([{"params": averaged}], 0.5, **ADAMW))
    expected: list[Tensor] = []
    for step in (1, 2, 3):
        for optimizer in optimizers:
            optimizer.step()
        now = [one.detach().clone() for one in plain]
        expected = [torch.lerp(weight, one, decay_at(step, 0.5)) for weight, one in zip(now, expected or now, strict=True)]
    for one, other, average in zip(plain, averaged, expected, strict=True):
        assert torch.equal(one, other)
        assert_close(optimizers[1].state[other][AVERAGE], average, "op")

    def once(optimizer: torch.optim.Optimizer) -> float:
        started = time.perf_counter()
        optimizer.step()
        return time.perf_counter() - started

    rounds = [in_turn([partial(once, one) for one in optimizers], 5 if asked.quick else 30) for _ in range(asked.repetitions)]
    bare, own = (statistics.median(each) / 1e3 for each in zip(*rounds, strict=True))
    check = "the weights are AdamW's, the averages those of its weights"
    case = f"AdamW of {sum(map(Tensor.numel, plain)):,} numbers"
    return [Row(case, "a step with ema_decay", own, "s", check, peer=bare, ratio=own / bare)]


def _weights() -> list[nn.Parameter]:
    """Matrices with gradients, the same ones for each call."""
    generator = torch.Generator().manual_seed(0)
    found = [nn.Parameter(torch.randn(512, 512, generator=generator)) for _ in range(64)]
    for one in found:
        one.grad = torch.randn(512, 512, generator=generator)
    return found


def _same_step(ours: MMInterleaved, twin: MMInterleaved, batch: Any) -> str:
    """Loss and every gradient of both. Raises AssertionError where they differ."""
    for model in (ours, twin):
        model(batch).loss.backward()
    theirs = dict(twin.named_parameters())
    pairs = {
        name: (parameter.grad, theirs[name if name in theirs else _renamed(name)].grad)
        for name, parameter in ours.named_parameters()
        if parameter.grad is not None
    }
    largest = max(grad.abs().max().item() for grad, _ in pairs.values())
    for name, (grad, other) in pairs.items():
        assert other is not None
        if max(grad.abs().max().item(), other.abs().max().item()) > ROUNDING * largest:
            assert_close(grad, other, "model", name)
    for model in (ours, twin):
        model.zero_grad(set_to_none=True)
    return "every gradient is that of the published form"


def _renamed(name: str) -> str:
    """A parameter's name under the module that the published form puts around MMFS."""
    for part in ("llama_cross_attn.", "mmfs_mid_block."):
        name = name.replace(part, f"{part}ours.")
    head, found, tail = name.partition("mmfs_down_blocks.")
    number, _, rest = tail.partition(".")
    return f"{head}{found}{number}.ours.{rest}" if found else name


def _mmfs_cost(model: MMInterleaved, batch: Any) -> dict[str, float]:
    """Seconds of forward and backward of the modules that look at pictures, on the inputs they have in the step."""
    net = model.get_submodule("image_decoder.decoder.mmfs_module")
    of_language = [each for name, each in model.mm_decoder.named_modules() if name.endswith("llama_cross_attn") or name == "projection"]
    of_pictures = [each for name, each in net.named_modules() if name in ("projection", "mmfs_mid_block") or _is_block(name)]
    parts: dict[str, list[nn.Module]] = {"MMFS of the language model": of_language, "MMFS of the image decoder": of_pictures}
    seen = calls(parts, lambda: model(batch))
    return {name: min(cost(own).both for _ in range(3)) for name, own in seen.items()}


def _is_block(name: str) -> bool:
    return name.startswith("mmfs_down_blocks.") and name.count(".") == 1


def on_gpu(quick: bool) -> list[Row]:
    """Training of a model of billions of parameters with random weights in bfloat16: tokens a second and the share of the device's peak.

    Operations are counted by torch over one forward and backward, so that a frozen part counts 4 of 6 (its weights get no gradients).
    """
    from torch.utils.flop_counter import FlopCounterMode

    device = torch.device("cuda")
    config = preset(BILLIONS, vocab_size=32000)
    with device:
        model = build_model(config, seed=0).to(torch.bfloat16).train()
    model.checkpoint_activations()
    batch = made_up_batch(config, rows=1 if quick else 2, columns=2048).to(device)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.0, fused=True)

    def once() -> torch.Tensor:
        loss: torch.Tensor = model(batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    with FlopCounterMode(display=False) as counter:
        first = once()
    if not torch.isfinite(first):
        raise RuntimeError("the loss is not finite: no number")
    seconds = []
    for _ in range(3 if quick else 10):
        torch.cuda.synchronize()
        started = time.perf_counter()
        once()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    taken, name = statistics.median(seconds), torch.cuda.get_device_name()
    case, check = f"{BILLIONS}, bfloat16, {name}", "the loss is finite"
    rows = [median_row(case, "training", [batch.text_ids.numel() / taken], "tokens/s", check)]
    peak = next((peak for part, peak in PEAKS.items() if part in name), None)
    if peak:
        share = counter.get_total_flops() / taken / peak
        rows.append(median_row(case, "MFU", [share], "of peak", check, None if quick else Goal(0.5, at_most=False)))
    return rows


PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second that a device is sold with."""


if __name__ == "__main__":
    main()
