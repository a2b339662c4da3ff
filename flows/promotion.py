"""The flows `promote` and `rollback`, for those who may start deployments but not write the registry; the ledger keeps who asked."""

from __future__ import annotations

from prefect import flow

from components.promote import open_promotions
from components.settings import Settings


@flow(name="promote", persist_result=False, description="Make a version of a model its champion.")
def promote(model: str, version: int, by: str, reason: str = "promoted by hand") -> None:
    """Promote by hand.

    Args:
        model: Registered model, such as `mmfs-vqa`.
        version: The version that becomes champion.
        by: Who asks for it.
        reason: Why.
    """
    open_promotions(Settings()).promote(model, version, by, reason)


@flow(name="rollback", persist_result=False, description="Put the previous champion back in charge.")
def rollback(model: str, by: str, reason: str = "rolled back by hand") -> None:
    """Roll back.

    Args:
        model: Registered model, such as `mmfs-vqa`.
        by: Who asks for it.
        reason: Why.
    """
    open_promotions(Settings()).rollback(model, by, reason)
