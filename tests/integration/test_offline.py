"""Nothing phones home: the whole line in a network namespace that has loopback only, and no process tries for more."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from loopback import alone, can_make_namespaces, watched

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not can_make_namespaces(), reason="missing permission: network namespaces (unshare -rn)"),
]


def test_the_line_runs_on_loopback_alone_and_asks_for_nothing_else(trained_line: Any) -> None:
    assert trained_line.result["status"] == "Completed"
    assert trained_line.alone
    assert not trained_line.asked.exists(), trained_line.asked.read_text()


def test_the_witness_sees_a_call(tmp_path: Path) -> None:
    environment, asked = watched(tmp_path)
    call = "import socket\ntry: socket.create_connection(('example.com', 443), 1)\nexcept OSError: print('no way out')"
    done = subprocess.run(alone("-c", call), env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "no way out\n"
    assert "example.com" in asked.read_text()
