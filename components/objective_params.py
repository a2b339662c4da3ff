"""What a training stage minimises, beside the two weights: all of it our reading, for the papers print no formula."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from components.frozen import Frozen


class ConditionParams(Frozen):
    """What a document's pictures are made from, drawn for each document and epoch; 0 and 0 is the release's rule (model.condition_drop)."""

    drop_text: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of documents whose pictures are made from the earlier pictures alone; their texts have no loss then",
    )
    drop_both: float = Field(
        0.0, ge=0, le=1, description="share of documents whose pictures are made from nothing; their texts have no loss then"
    )

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if self.drop_text + self.drop_both >= 1:
            raise ValueError("conditions.drop_text and conditions.drop_both must be below 1 together: else no text is ever trained")
        return self

    @property
    def drawn(self) -> bool:
        """Whether documents draw a mode, in place of the release's rule."""
        return self.drop_text + self.drop_both > 0


class BalanceParams(Frozen):
    """Whether lambda, the weight of the image loss, follows the losses."""

    mode: Literal["none", "losses"] = Field(
        "none", description="lambda as configured, or such that lambda x image loss keeps a ratio to the text loss"
    )
    ratio: float = Field(1.0, gt=0, description="weighted image loss over text loss")
    bound: float = Field(4.0, ge=1, description="lambda stays within the configured one divided and multiplied by it")
    decay: float = Field(0.98, ge=0, lt=1, description="of the running means of the losses, per step")


class ObjectiveParams(Frozen):
    """Weights of tokens, documents and losses."""

    token_weights: Literal["even", "square_root"] = Field(
        "even",
        description="weight of a text token: 1, or 1 over the root of its text's length (BAGEL's square reweighting), so that long texts "
        "do not drown short ones",
    )
    control_weight: float = Field(1.0, ge=1, description="weight of the tokens that begin a picture (BoI) or end the document (</s>)")
    conditions: ConditionParams = ConditionParams()
    balance: BalanceParams = BalanceParams()
