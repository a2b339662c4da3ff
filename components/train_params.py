"""One training stage: its batch, optimizer, schedule and parallelism, and what stands beside its steps."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from components.accumulation import accumulation
from components.checkpoint_params import CheckpointParams
from components.continuation import Continuation
from components.frozen import Frozen
from components.guard_params import GuardParams
from components.kinds import Kind
from components.mixing import Weight, is_drawn, silence
from components.objective_params import ObjectiveParams
from components.progression_params import ProgressionParams
from components.start import Start
from components.telemetry_params import TelemetryParams
from components.validation_params import ValidationParams

Packing = Literal["best_fit", "concatenate_split"]
Augmentation = Literal["resize", "center_crop", "random_crop", "flip"]
Offload = Literal["none", "optimizer", "parameters"]
Decay = Annotated[float, Field(ge=0, lt=1)]


class ParameterGroup(Frozen):
    """Optimizer values of the parameters whose name contains `match`; the first matching group wins."""

    match: str = Field(description="part of a parameter's name")
    learning_rate_factor: float = Field(1.0, ge=0, description="multiplies the stage's learning rate")
    weight_decay: float | None = Field(None, ge=0, description="the stage's where absent")


class FewShotParams(Frozen):
    """Documents that are merged into one sequence, without </s> and <s> between them, so that later ones attend to earlier ones."""

    probability: float = Field(0.0, ge=0, le=1, description="share of the documents of these kinds that is merged; 0.25 in the release")
    min: int = Field(2, ge=2, description="documents of a merged sequence at least; 2 in the release")
    max: int = Field(8, ge=2, description="documents of a merged sequence at most; 8 in the release")
    kinds: tuple[Kind, ...] = Field(("caption",), description="kinds of documents that are merged: in the release pairs")

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) must be at most max ({self.max})")
        return self


class TrainParams(Frozen):
    """One training stage: start, batch, optimizer, schedule, parallelism."""

    init_from: str | None = Field(
        None,
        description="what its weights begin as: `scratch`, `stage:pretrain`, `components:FOLDER`, `weights:FOLDER` or `models:/NAME@ALIAS` "
        "(docs/starting.md); `scratch` in pretrain and `stage:pretrain` in the tasks where absent. `mmfs run` appends `#sha256:DIGEST`",
    )
    continue_from: str | None = Field(
        None,
        description="checkpoint of another run that the stage goes on from with all its state, as `RUN@STEP#sha256:DIGEST`; "
        "`mmfs run --continue RUN` writes it, when ranks or machines changed (docs/training.md)",
    )
    steps: int = Field(ge=0, description="optimizer steps; with 0 the weights it starts from are taken as they are")
    rows_per_step: int = Field(ge=1, description="packed rows per optimizer step over all ranks (the global batch)")
    row_tokens: int = Field(ge=16, description="tokens of a packed row; 2048 in Table 11")
    accumulate: PositiveInt | Literal["auto"] = Field(
        1, description="micro-batches per optimizer step and rank; `auto`: the fewest that rows_per_device allows, whatever the ranks"
    )
    rows_per_device: int | None = Field(
        None,
        ge=1,
        description="packed rows that a device takes at once at most; accumulate `auto` needs it, else no limit where absent",
    )
    mixture: dict[str, Weight] = Field(
        description="relative weight of the rows of each name: a kind (`question`), a corpus (`mmc4`) or CORPUS/KIND. A number, or its "
        "course over training, `[[step, weight], ...]` with straight lines between. In the paper MMC4 weighs twice as much as each corpus "
        "of pairs (section 3.2)"
    )
    packing: Packing = Field(
        "best_fit", description="how documents become rows: none cut that fits a row, or joined and cut at the end of a row as in the paper"
    )
    rows_of: Literal["source", "any"] = Field(
        "source", description="a row holds documents of one name of the mixture, or of any; weights then count documents instead of rows"
    )
    max_images_per_row: dict[str, PositiveInt] = Field(
        {},
        description="images of a row at most, by name of the mixture; no limit where absent (30 for pairs and 15 for MMC4 in the release)",
    )
    few_shot: FewShotParams = FewShotParams()
    learning_rate: float = Field(gt=0, description="peak of the cosine schedule")
    final_learning_rate_factor: float = Field(0.0, ge=0, le=1, description="the cosine ends at this share of the learning rate")
    warmup_steps: int = Field(0, ge=0, description="steps in which the learning rate rises from 0")
    betas: tuple[Decay, Decay] = Field((0.9, 0.995), description="AdamW's decay rates (Table 11)")
    eps: float = Field(1e-6, gt=0, description="AdamW's epsilon (Table 11)")
    weight_decay: float = Field(0.05, ge=0, description="AdamW's, on parameters that no group claims")
    clip_norm: float = Field(1.0, gt=0, description="global gradient norm")
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="above 0 a moving average of the weights with this decay is kept, also in checkpoints, and is what is exported; no "
        "recipe of MM-Interleaved has one (BAGEL, from which ILLUME-X starts: 0.9999, in fine-tuning 0.995)",
    )
    groups: tuple[ParameterGroup, ...] = Field((), description="parameters with values of their own; the first match counts")
    freeze: tuple[str, ...] = Field((), description="parameters whose name contains one of these are not trained")
    zero_stage: Literal[1, 2, 3] = Field(
        2, description="DeepSpeed ZeRO stage, what the ranks share out: 1 the optimizer's state, 2 gradients too, 3 parameters too"
    )
    ranks: int = Field(2, ge=1, description="processes, one device each; one alone trains without DeepSpeed, unless offload asks for it")
    offload: Offload = Field(
        "none",
        description="what DeepSpeed keeps in the memory of the processor instead of the device's: the optimizer with its state, or with "
        "zero_stage 3 the parameters too",
    )
    whole_parameters: int = Field(
        100_000, ge=0, description="parameters of at most so many numbers stay whole on every rank with zero_stage 3; fewer messages"
    )
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field("32-true", description="arithmetic of the ranks, in Lightning's words")
    activation_checkpointing: bool = Field(
        False, description="compute activations again for the gradient: less memory, about a third more time"
    )
    image_px: int | None = Field(
        None,
        ge=16,
        description="side of the encoder's input, pixels (448 in Table 12): position tables are resized; the model's where absent",
    )
    augmentation: Augmentation = Field(
        "resize",
        description="what a picture shows, the same to encoder and decoder: all of it, its middle square, a random square of 0.8 to 1 of "
        "the shorter side, or all of it and every other document mirrored (Tables 13 to 15)",
    )
    loader_workers: int = Field(
        0, ge=0, description="processes per rank that read and decode ahead; 0 does it between the steps, which is best for tiny pictures"
    )
    checkpoint_every_steps: int = Field(50, ge=1, description="optimizer steps between two committed checkpoints")
    checkpoints: CheckpointParams = CheckpointParams()
    log_every_steps: int = Field(5, ge=1, description="optimizer steps between two logged points")
    validation: ValidationParams = ValidationParams()
    telemetry: TelemetryParams = TelemetryParams()
    guard: GuardParams = GuardParams()
    text_loss_weight: float | None = Field(None, ge=0, description="the model's where absent")
    image_loss_weight: float | None = Field(None, ge=0, description="the model's where absent")
    objective: ObjectiveParams = ObjectiveParams()
    progression: ProgressionParams = ProgressionParams()

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        if self.objective.balance.mode != "none" and self.image_loss_weight == 0:
            raise ValueError("objective.balance.mode is set and image_loss_weight is 0; there is nothing to balance")
        if self.progression.mode == "none":
            return self
        if self.progression.mode == "competence" and not self.validation.every_steps:
            raise ValueError("progression.mode is `competence`, which goes by held-out values; set validation.every_steps above 0")
        if courses := [name for name, weight in self.mixture.items() if isinstance(weight, tuple)]:
            raise ValueError(f"mixture.{courses[0]} is a course in steps, and progression.mode says when documents come; give a number")
        if self.rows_of != "source" or self.few_shot.probability:
            raise ValueError("progression needs rows_of `source` and few_shot.probability 0: its levels are of documents by themselves")
        return self

    @model_validator(mode="after")
    def _divides(self) -> Self:
        self.micro_batches(self.ranks)
        if self.init_from is not None:
            Start.parse(self.init_from)
        if self.continue_from is not None:
            Continuation.parse(self.continue_from)
        if self.steps and self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be below steps ({self.steps})")
        if not any(map(is_drawn, self.mixture.values())):
            raise ValueError("mixture needs one name with a positive weight")
        if self.steps and (quiet := silence(self.mixture, self.steps)):
            raise ValueError(f"mixture: all weights are 0 from step {quiet[0]} to {quiet[1]}; there is nothing to train on")
        if strangers := sorted(set(self.max_images_per_row) - set(self.mixture)):
            raise ValueError(f"max_images_per_row.{strangers[0]}: the mixture has no such name; it has {', '.join(sorted(self.mixture))}")
        if self.rows_of == "any" and (courses := [name for name, weight in self.mixture.items() if isinstance(weight, tuple)]):
            raise ValueError(f"mixture.{courses[0]} is a course in steps, and with rows_of `any` weights count documents; give a number")
        return self

    def micro_batches(self, ranks: int) -> int:
        """Micro-batches per optimizer step of each of so many ranks. Raises ValueError naming the nearest rows_per_step that fit."""
        most = self.rows_per_device
        if self.accumulate == "auto":
            if most is None:
                raise ValueError("accumulate is `auto`, which needs rows_per_device, the packed rows that a device takes at once")
            return accumulation(self.rows_per_step, ranks, most)
        hands = ranks * self.accumulate
        if self.rows_per_step % hands:
            raise ValueError(f"rows_per_step ({self.rows_per_step}) must be a multiple of ranks x accumulate ({ranks} x {self.accumulate})")
        if most is not None and (rows := self.rows_per_step // hands) > most:
            raise ValueError(f"accumulate {self.accumulate} gives a device {rows} rows at once, rows_per_device is {most}; set it to auto")
        return self.accumulate

    @property
    def sharded_stage(self) -> int:
        """The ZeRO stage that trains, 0 where one process trains without DeepSpeed."""
        return 0 if self.ranks == 1 and self.offload == "none" else self.zero_stage

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the mixture that are ever drawn, in its order."""
        return tuple(name for name, weight in self.mixture.items() if is_drawn(weight))

    @property
    def token_budget(self) -> int:
        """Tokens of all rows of all steps, padding included."""
        return self.steps * self.rows_per_step * self.row_tokens
