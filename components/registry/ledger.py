"""The ledger: who is champion, decided by hash-chained entries that are created once and never changed.

Entry n of a model is the object `<model>/<n>.json`. Whoever creates entry n first wins; the other reads it and decides again. MLflow's
aliases only follow what the entries say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from components.registry.store import ObjectStore
from components.run.failures import FailureClass, StageError

SCHEMA = 1
Kind = Literal["promoted", "rejected", "rolled back"]


class LedgerError(StageError):
    """The ledger cannot be read or its chain is broken; the message names the entry."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureClass.INFRASTRUCTURE, message)


class Entry(BaseModel):
    """One decision about one model. `version` is the model version it is about; a rollback is about the version taken down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(SCHEMA, ge=1)
    model: str
    number: int = Field(ge=1)
    previous_sha256: str = Field(description="digest of entry number-1; empty for the first")
    time: str = Field(description="UTC, ISO 8601")
    by: str = Field(description="who decided: a user, or `gate` for the automatic decision")
    kind: Kind
    version: int = Field(ge=1)
    digest: str = Field(description="model digest of that version")
    run_id: str
    reasons: tuple[str, ...]
    evidence: dict[str, Any] = Field(default_factory=dict)

    def sha256(self) -> str:
        """Digest of the entry's canonical JSON: stored beside it, and held by the next entry."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def stored(self) -> bytes:
        """The object's bytes."""
        values = {"entry": self.model_dump(mode="json"), "sha256": self.sha256()}
        return (json.dumps(values, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


@dataclass(frozen=True)
class Proposal:
    """What somebody wants to write next; the ledger adds number, time and chain."""

    kind: Kind
    version: int
    digest: str
    run_id: str
    reasons: tuple[str, ...]
    by: str
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """What the entries add up to. `reign` is the line of champions, each once, the present one last; `withdrawn` were rolled back."""

    reign: tuple[int, ...] = ()
    challenger: int | None = None
    withdrawn: frozenset[int] = frozenset()

    @property
    def champion(self) -> int | None:
        """The version in charge."""
        return self.reign[-1] if self.reign else None

    @property
    def previous(self) -> int | None:
        """The version that a rollback brings back."""
        return self.reign[-2] if len(self.reign) > 1 else None

    @property
    def aliases(self) -> dict[str, int]:
        """The aliases that the registry should show."""
        wanted = {"champion": self.champion, "previous": self.previous, "challenger": self.challenger}
        return {alias: version for alias, version in wanted.items() if version is not None}


def standing(entries: Iterable[Entry]) -> Standing:
    """Fold entries, oldest first."""
    reign: list[int] = []
    challenger: int | None = None
    withdrawn: set[int] = set()
    for entry in entries:
        match entry.kind:
            case "promoted":
                reign = [*(version for version in reign if version != entry.version), entry.version]
                withdrawn.discard(entry.version)
                challenger = None if challenger == entry.version else challenger
            case "rejected":
                challenger = entry.version
            case "rolled back":
                reign.pop()
                withdrawn.add(entry.version)
    return Standing(tuple(reign), challenger, frozenset(withdrawn))


class Ledger:
    """The entries of all models in one store."""

    def __init__(self, store: ObjectStore, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.store = store
        self.now = now

    def models(self) -> list[str]:
        """Models with at least one entry."""
        return sorted({name.split("/")[0] for name in self.store.names("")})

    def entries(self, model: str) -> list[Entry]:
        """All entries of a model, oldest first, with the chain checked. Raises LedgerError naming the first entry that does not fit."""
        read: list[Entry] = []
        while (data := self.store.read(_name(model, len(read) + 1))) is not None:
            read.append(_checked(data, model, read))
        beyond = [name for name in self.store.names(f"{model}/") if name not in {_name(model, entry.number) for entry in read}]
        if beyond and (appeared := self.store.read(_name(model, len(read) + 1))) is None:
            raise LedgerError(f"ledger entry {_name(model, len(read) + 1)} is missing but {beyond[0]} exists; restore it from a backup")
        elif beyond and appeared is not None:
            return self.entries(model)
        return read

    def append(self, model: str, after: list[Entry], proposal: Proposal) -> Entry | None:
        """Write the entry that follows `after`; None when somebody else wrote that number first, so that the caller decides again."""
        last = after[-1] if after else None
        entry = Entry(
            model=model,
            number=len(after) + 1,
            previous_sha256=last.sha256() if last else "",
            time=self.now().isoformat(timespec="seconds"),
            by=proposal.by,
            kind=proposal.kind,
            version=proposal.version,
            digest=proposal.digest,
            run_id=proposal.run_id,
            reasons=proposal.reasons,
            evidence=proposal.evidence,
        )
        return entry if self.store.create(_name(model, entry.number), entry.stored()) else None


def _checked(data: bytes, model: str, before: list[Entry]) -> Entry:
    name = _name(model, len(before) + 1)
    try:
        values = json.loads(data)
        schema, digest = values["entry"]["schema_version"], values["sha256"]
        if schema > SCHEMA:
            raise LedgerError(f"ledger entry {name} has schema {schema}, this program reads up to {SCHEMA}; update it")
        entry = Entry.model_validate(values["entry"])
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"ledger entry {name} is unreadable ({error}); restore it from a backup") from None
    expected = before[-1].sha256() if before else ""
    if (entry.model, entry.number) != (model, len(before) + 1):
        raise LedgerError(f"ledger entry {name} says that it is {entry.model}/{entry.number}; somebody moved it")
    if entry.sha256() != digest:
        raise LedgerError(
            f"ledger entry {name} was changed after it was written: its content is not what its sha256 says; restore it from a backup"
        )
    if entry.previous_sha256 != expected:
        raise LedgerError(f"ledger entry {name} does not continue the chain: an entry before it was replaced; restore it from a backup")
    if entry.kind == "rolled back" and entry.version != standing(before).champion:
        raise LedgerError(f"ledger entry {name} rolls back version {entry.version}, which was not champion")
    return entry


def _name(model: str, number: int) -> str:
    return f"{model}/{number}.json"
