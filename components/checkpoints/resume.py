"""The checkpoint that a training goes on from: the newest good one of its own, here or in the second place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.checkpoints.folder import CheckpointFolder, Refusal, takes_all
from components.checkpoints.identity import refuse_others
from components.checkpoints.manifest import Checkpoint, CheckpointError
from components.checkpoints.places import PlaceError
from components.checkpoints.second import SecondPlace
from components.run.failures import FailureClass, StageError
from components.run.lease import Owner, owner_of


def find_resume(
    folder: CheckpointFolder, identity: Mapping[str, Any], refuse: Refusal = takes_all, second: SecondPlace | None = None
) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint, None where there is none to go on from, and in words what was passed over, recovered or discarded.

    What a killed attempt left is settled first. A later one of the second place is copied here. `refuse` says which good ones of this
    training are not wanted, as after a rollback. Raises StageError where checkpoints are there and all are damaged (bad_data) or of another
    training (bad_config), where another process writes the same checkpoints, or where the work folder has none and the second place does
    not answer (infrastructure): never is a training begun anew without a word.
    """
    check_alone(folder.folder)
    notes = folder.recover()
    others = refuse_others(identity)
    alien: list[str] = []
    unwanted: list[str] = []

    def decide(checkpoint: Checkpoint) -> str | None:
        for refusal, told in ((others, alien), (refuse, unwanted)):
            if (reason := refusal(checkpoint)) is not None:
                told.append(f"{checkpoint.path}: {reason}")
                return reason
        return None

    found, refused = folder.latest(refuse=decide)
    if second is not None:
        found, more = _from_second(folder, second, found, others, decide)
        refused += more
    if found is None and len(refused) > len(unwanted):
        failure, fix = FailureClass.BAD_DATA, "bring one of them back"
        if len(refused) == len(alien) + len(unwanted):
            failure, fix = FailureClass.BAD_CONFIG, "give it the parameters and data it was started with"
        raise StageError(failure, f"no checkpoint can be used: {'; '.join(refused)}", f"{fix}, or remove them to begin anew")
    return found, [*(f"checkpoint of {note}" for note in notes), *(f"checkpoint passed over: {reason}" for reason in refused)]


def check_alone(folder: Path) -> None:
    """Raises StageError (infrastructure) while another living process writes the checkpoints of a folder."""
    owner, me = owner_of(folder), Owner.myself()
    if owner is not None and not owner.same(me) and owner.alive(me):
        message = f"process {owner.pid} on {owner.host} writes the checkpoints in {folder}"
        raise StageError(FailureClass.INFRASTRUCTURE, message, "let it end, or stop it, and run the same command again")


def _from_second(
    folder: CheckpointFolder, second: SecondPlace, local: Checkpoint | None, others: Refusal, refuse: Refusal
) -> tuple[Checkpoint | None, list[str]]:
    """The newest good one of the second place where it is later than the local one; else that. One of `others` is not copied."""
    reasons: list[str] = []
    try:
        for step in reversed(second.steps()):
            if local is not None and step <= local.step:
                break
            try:
                told = second.info(step)
                if others(told) is None:
                    told = second.copy_to(step, folder)
                if (reason := refuse(told)) is None:
                    return told, reasons
                reasons.append(f"{told.path}: {reason}")
            except CheckpointError as error:
                folder.discard(step)
                reasons.append(str(error))
    except PlaceError as error:
        if local is None:
            fix = "look whether it answers, or unset MMFS_CHECKPOINTS to begin without what lies there"
            raise StageError(FailureClass.INFRASTRUCTURE, f"whether there are checkpoints to go on from is unknown: {error}", fix) from None
        reasons.append(f"the second place was not asked for later ones: {error}")
    return local, reasons
