"""What a run would train: groups, counts, batches and budgets of each stage, from a model without memory."""

from __future__ import annotations

from dataclasses import dataclass

from components.architecture import architecture, stage_architecture
from components.mixing import Weight, is_drawn
from components.params import Params, TrainParams
from components.training.optimizer import check_patterns, freeze, parameter_groups
from model.build import build_on_meta
from model.mm_interleaved import MMInterleaved


@dataclass(frozen=True)
class GroupPlan:
    """An optimizer group. `name` is its pattern, `rest` for what none claims, and whether it decays; `parameters` counts numbers."""

    name: str
    learning_rate: float
    weight_decay: float
    tensors: int
    parameters: int


@dataclass(frozen=True)
class StagePlan:
    """One training stage. `start` is its init_from, `frozen` counts what each pattern of `freeze` is the first to freeze, and under
    `always` what no recipe trains.

    `rows_at_once` are rows that a device takes, `mixture` the weights that are ever above 0.
    """

    stage: str
    start: str
    image_px: int
    output_px: int
    parameters: int
    trainable: int
    groups: tuple[GroupPlan, ...]
    frozen: dict[str, int]
    global_batch: int
    row_tokens: int
    ranks: int
    accumulation: int
    rows_at_once: int
    steps: int
    warmup_steps: int
    token_budget: int
    ema_decay: float
    text_loss_weight: float
    image_loss_weight: float
    mixture: dict[str, Weight]


def stage_plans(params: Params) -> tuple[StagePlan, ...]:
    """The training stages of a run in their order. Raises StageError for a pattern without parameter, ConfigError for a model."""
    config = architecture(params.model, params.data.vocabulary_size)
    networks: dict[int, MMInterleaved] = {}
    plans = []
    for stage in params.training_stages:
        own = stage_architecture(params, stage, config)
        if (px := own.vision.image_px) not in networks:
            networks[px] = build_on_meta(own)
        plans.append(_plan(params, stage, networks[px]))
    return tuple(plans)


def _plan(params: Params, stage: str, network: MMInterleaved) -> StagePlan:
    """A stage's plan; what it freezes in the network is as before when it returns."""
    train, key, config = params.training(stage), params.training_key(stage), network.config
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    always = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    check_patterns(sizes, {f"{key}.freeze": train.freeze, f"{key}.groups": tuple(group.match for group in train.groups)})
    freeze(network, train.freeze)
    groups = tuple(
        GroupPlan(group["name"], group["lr"], group["weight_decay"], len(group["params"]), sum(each.numel() for each in group["params"]))
        for group in parameter_groups(network, train)
    )
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in always)
    accumulation = train.micro_batches(train.ranks)
    text, image = train.text_loss_weight, train.image_loss_weight
    return StagePlan(
        stage=stage,
        start=str(params.start(stage)),
        image_px=config.vision.image_px,
        output_px=config.image_decoder.output_px,
        parameters=sum(sizes.values()),
        trainable=sum(group.parameters for group in groups),
        groups=groups,
        frozen=_frozen(train, sizes, always),
        global_batch=train.rows_per_step,
        row_tokens=train.row_tokens,
        ranks=train.ranks,
        accumulation=accumulation,
        rows_at_once=train.rows_per_step // (train.ranks * accumulation),
        steps=train.steps,
        warmup_steps=train.warmup_steps,
        token_budget=train.token_budget,
        ema_decay=train.ema_decay,
        text_loss_weight=params.model.text_loss_weight if text is None else text,
        image_loss_weight=params.model.image_loss_weight if image is None else image,
        mixture={name: weight for name, weight in train.mixture.items() if is_drawn(weight)},
    )


def _frozen(train: TrainParams, sizes: dict[str, int], always: set[str]) -> dict[str, int]:
    counts = {"always": sum(sizes[name] for name in always)} if always else {}
    for name, size in sizes.items():
        pattern = next((pattern for pattern in train.freeze if pattern in name), None)
        if pattern is not None and name not in always:
            counts[pattern] = counts.get(pattern, 0) + size
    return counts
