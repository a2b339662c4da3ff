"""Who is champion: the gate's or a user's decision goes into the ledger, and the registry's aliases follow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mlflow.tracking import MlflowClient

from components.params import GateRule
from components.register import Candidate
from components.registry.gate import Evaluated, GateDecision, decide
from components.registry.ledger import Entry, Ledger, Proposal, Standing, standing
from components.registry.package import DIGEST_TAG, RUN_TAG, RegistryError, UnknownModel, fetch_evaluated, find_version, versions
from components.registry.store import open_store
from components.settings import Settings
from components.tracking.mlflow_run import connect

Decision = Literal["promoted", "rejected", "unchanged", "not promotable", "not compared"]
ALIASES = ("champion", "previous", "challenger")
GATE = "gate"
AliasValue = int | None


@dataclass(frozen=True)
class Outcome:
    """What became of a version: the decision, why in words, its numbers, and the ledger entry where one was written."""

    model: str
    version: int
    digest: str
    decision: Decision
    reasons: tuple[str, ...]
    evidence: dict[str, Any]
    entry: int | None = None


@dataclass(frozen=True)
class AliasDrift:
    """An alias of the registry that is not what the ledger says; None stands for absent."""

    model: str
    alias: str
    ledger: AliasValue
    registry: AliasValue


def open_promotions(settings: Settings) -> Promotions:
    """Decisions over the configured registry and ledger."""
    return Promotions(connect(settings), Ledger(open_store(settings.ledger_address)))


class Promotions:
    """Decisions over one registry and one ledger."""

    def __init__(self, client: MlflowClient, ledger: Ledger) -> None:
        self.client = client
        self.ledger = ledger

    def consider(self, candidate: Candidate, rule: GateRule) -> Outcome:
        """Let the gate decide about a candidate, write promotions and rejections down, and set the aliases.

        A decision that was already taken on the same evidence is answered again without a new entry.
        """
        while True:
            entries = self.ledger.entries(candidate.model)
            now = standing(entries)
            decision, reasons, evidence = self._judge(candidate, rule, now)
            if decision not in ("promoted", "rejected"):
                self.follow(candidate.model)
                return Outcome(candidate.model, candidate.version, candidate.digest, decision, reasons, evidence)
            same = [one.number for one in entries if (one.version, one.kind, one.evidence) == (candidate.version, decision, evidence)]
            if decision == "rejected" and same and now.challenger == candidate.version:
                self.follow(candidate.model)
                return Outcome(candidate.model, candidate.version, candidate.digest, decision, reasons, evidence, same[-1])
            proposal = Proposal(decision, candidate.version, candidate.digest, candidate.run_id, reasons, GATE, evidence)
            if (entry := self.ledger.append(candidate.model, entries, proposal)) is not None:
                self.follow(candidate.model)
                return Outcome(candidate.model, candidate.version, candidate.digest, decision, reasons, evidence, entry.number)

    def promote(self, model: str, version: int, by: str, reason: str = "promoted by hand") -> Entry:
        """Make a version champion by a user's word. Raises RegistryError for an unknown version, one from a dirty tree, or the champion."""
        found = find_version(self.client, model, version)
        if obstacle := found.tags.get("mmfs.obstacle"):
            raise RegistryError(f"{model} version {version} cannot be promoted: {obstacle}")

        def propose(now: Standing) -> Proposal:
            if now.champion == version:
                raise RegistryError(f"{model} version {version} is the champion already")
            return Proposal("promoted", version, found.tags.get(DIGEST_TAG, ""), found.tags.get(RUN_TAG, ""), (reason,), by)

        return self._write(model, propose)

    def rollback(self, model: str, by: str, reason: str = "rolled back by hand") -> Entry:
        """Put the previous champion back in charge. Raises RegistryError when there is none."""

        def propose(now: Standing) -> Proposal:
            if now.champion is None and not versions(self.client, model):
                raise UnknownModel(f"no model {model} is registered")
            if now.champion is None or now.previous is None:
                raise RegistryError(f"{model} has no earlier champion to go back to")
            found = find_version(self.client, model, now.champion)
            return Proposal("rolled back", now.champion, found.tags.get(DIGEST_TAG, ""), found.tags.get(RUN_TAG, ""), (reason,), by)

        return self._write(model, propose)

    def follow(self, model: str) -> Standing:
        """Set the registry's aliases to what the ledger says, again if it goes on meanwhile."""
        now = standing(self.ledger.entries(model))
        while True:
            for drift in self._drifts(model, now):
                if drift.ledger is None:
                    self.client.delete_registered_model_alias(model, drift.alias)
                else:
                    self.client.set_registered_model_alias(model, drift.alias, str(drift.ledger))
            seen, now = now, standing(self.ledger.entries(model))
            if seen == now:
                return now

    def verify(self, model: str) -> list[AliasDrift]:
        """Aliases that differ from the ledger. Raises LedgerError when the chain itself is broken."""
        return self._drifts(model, standing(self.ledger.entries(model)))

    def _judge(self, candidate: Candidate, rule: GateRule, now: Standing) -> tuple[Decision, tuple[str, ...], dict[str, Any]]:
        if now.champion == candidate.version:
            return "unchanged", ("the weights are those of the champion",), {}
        if candidate.obstacle is not None:
            return "not promotable", (candidate.obstacle,), {}
        if candidate.version in now.withdrawn:
            again = f"mmfs promote {candidate.model} {candidate.version}"
            return "not promotable", (f"version {candidate.version} was rolled back; only `{again}` brings it back",), {}
        gate: GateDecision = decide(rule, candidate.evaluated, self._champion(candidate, now))
        return gate.verdict, gate.reasons, gate.evidence

    def _champion(self, candidate: Candidate, now: Standing) -> Evaluated | None:
        if now.champion is None:
            return None
        return fetch_evaluated(self.client, find_version(self.client, candidate.model, now.champion), candidate.evaluated.manifest)

    def _write(self, model: str, propose: Callable[[Standing], Proposal]) -> Entry:
        while True:
            entries = self.ledger.entries(model)
            if (entry := self.ledger.append(model, entries, propose(standing(entries)))) is not None:
                self.follow(model)
                return entry

    def _drifts(self, model: str, now: Standing) -> list[AliasDrift]:
        if not (found := [one for one in self.client.search_registered_models(f"name = '{model}'") if one.name == model]):
            return [AliasDrift(model, alias, version, None) for alias, version in now.aliases.items()]
        shown = {alias: int(version) for alias, version in found[0].aliases.items()}
        return [
            AliasDrift(model, alias, now.aliases.get(alias), shown.get(alias))
            for alias in ALIASES
            if now.aliases.get(alias) != shown.get(alias)
        ]
