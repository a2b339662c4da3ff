"""What a training stage starts from, as it stands in params.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, Self

StartKind = Literal["scratch", "stage", "components", "weights", "models"]
_PIN = re.compile(r"^(?P<spec>.*)#sha256:(?P<digest>[0-9a-f]{64})$", re.DOTALL)
_MODEL = re.compile(r"[^/@]+(@[\w-]+|/\d+)")
EXPECTED = "expected scratch, stage:pretrain, components:FOLDER, weights:FOLDER, models:/NAME@ALIAS or models:/NAME/VERSION"


@dataclass(frozen=True)
class Start:
    """`address` is a folder, `pretrain`, or NAME@ALIAS or NAME/VERSION of a registered model; `digest` pins what lies there."""

    kind: StartKind
    address: str = ""
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `KIND:ADDRESS`, with `#sha256:DIGEST` behind it where it is pinned. Raises ValueError saying what is expected."""
        pinned = _PIN.match(text)
        spec, digest = (pinned["spec"], pinned["digest"]) if pinned else (text, None)
        kind, _, address = spec.partition(":")
        if kind == "models":
            address = address.removeprefix("/")
        match kind:
            case "scratch" if not address and digest is None and ":" not in spec:
                return cls("scratch")
            case "stage" if address == "pretrain" and digest is None:
                return cls("stage", address)
            case "components" if address:
                return cls("components", address, digest)
            case "weights" if address:
                return cls("weights", address, digest)
            case "models" if _MODEL.fullmatch(address):
                return cls("models", address, digest)
        raise ValueError(f"{text!r}: {EXPECTED}")

    @property
    def is_external(self) -> bool:
        """Whether it comes from outside of the run."""
        return self.kind in ("components", "weights", "models")

    @property
    def spec(self) -> str:
        """Without the pin."""
        return self.kind if self.kind == "scratch" else f"{self.kind}:{'/' if self.kind == 'models' else ''}{self.address}"

    def pinned(self, digest: str, address: str | None = None) -> Self:
        """The same held to a digest; where an alias was given, at the version that it named."""
        return replace(self, digest=digest, address=self.address if address is None else address)

    def __str__(self) -> str:
        return self.spec + (f"#sha256:{self.digest}" if self.digest else "")
