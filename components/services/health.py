"""The few questions that mmfs asks the local servers, over their own HTTP APIs and without loading their clients."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from datetime import datetime
from typing import Any

TIMEOUT_S = 5.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy of the environment must not see loopback calls


def answers(url: str) -> bool:
    """Whether a GET is answered with success."""
    try:
        with _DIRECT.open(url, timeout=TIMEOUT_S) as response:
            return bool(response.status < 300)
    except OSError:
        return False


def call(url: str, body: Any = None) -> Any:
    """Read JSON; a POST where there is a body. Raises OSError (urllib's HTTPError is one)."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with _DIRECT.open(request, timeout=TIMEOUT_S) as response:
        return json.loads(response.read() or b"null")


def create_pool(api: str, pool: str) -> None:
    """Create the process work pool unless it exists. Raises OSError."""
    try:
        call(f"{api}/work_pools/", {"name": pool, "type": "process", "description": "Runs flows on this machine"})
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise


def worker_is_online(api: str, pool: str, worker: str, since: float) -> bool:
    """Whether the worker has sent a heartbeat since `since` (seconds since the epoch) and counts as online."""
    try:
        found = call(f"{api}/work_pools/{pool}/workers/filter", {})
    except (OSError, ValueError):
        return False
    return any(row["name"] == worker and row["status"] == "ONLINE" and _seconds(row["last_heartbeat_time"]) >= since for row in found)


def cancel_flow_run(api: str, flow_run_id: str) -> bool:
    """Ask the worker of a flow run to end it; False when no worker runs it, so that nobody would. Raises OSError."""
    if call(f"{api}/flow_runs/{flow_run_id}").get("deployment_id") is None:
        return False
    answer = call(f"{api}/flow_runs/{flow_run_id}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    return bool(answer["status"] == "ACCEPT")


def _seconds(moment: str | None) -> float:
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp() if moment else 0.0
