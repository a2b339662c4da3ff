"""The MLflow signature of a model: the columns of a request and an answer, and the options with their defaults."""

from __future__ import annotations

from dataclasses import fields

from mlflow.models import ModelSignature
from mlflow.types import ParamSchema, ParamSpec
from mlflow.types.schema import ColSpec, DataType, Schema

from components.serving.items import Options

_TYPES = {"int": DataType.long, "float": DataType.double}


def signature() -> ModelSignature:
    """`prompt` and `images` in, `items` out; every option of components.serving.items.Options is a parameter."""
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "prompt"), ColSpec(DataType.string, "images", required=False)]),
        outputs=Schema([ColSpec(DataType.string, "items")]),
        params=ParamSchema([ParamSpec(one.name, _TYPES[str(one.type)], one.default) for one in fields(Options)]),
    )
