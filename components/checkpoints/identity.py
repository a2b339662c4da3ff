"""Whether a checkpoint is of the training that wants to go on: a comparison of what both say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.checkpoints.folder import Refusal
from components.checkpoints.manifest import Checkpoint

IDENTITY = "identity"
"""Key of a manifest's info: sections of JSON values that must be the same when a training goes on."""
_SHOWN = 3


def refuse_others(identity: Mapping[str, Any]) -> Refusal:
    """Refuses checkpoints of another training, by what differs."""

    def refuse(checkpoint: Checkpoint) -> str | None:
        if IDENTITY not in checkpoint.info:
            return "it does not say of which training it is"
        found = differences(identity, checkpoint.info[IDENTITY])
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return f"it is of another training: {'; '.join(found[:_SHOWN])}{more}" if found else None

    return refuse


def differences(own: Mapping[str, Any], its: Mapping[str, Any]) -> list[str]:
    """What the two say differently, by section and name."""
    mine, other = _flat(own), _flat(its)
    return [
        f"{name} is {_short(mine.get(name))}, the checkpoint has {_short(other.get(name))}"
        for name in sorted(mine.keys() | other.keys())
        if mine.get(name) != other.get(name)
    ]


def _flat(sections: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in sections.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
