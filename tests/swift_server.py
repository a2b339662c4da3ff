"""A real S3 server for tests: OpenStack Swift with s3api, from the package index, in a virtual environment of its own."""

from __future__ import annotations

import fcntl
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

VERSION = "2.38.3"
KEY, SECRET, REGION = "test:tester", "testing", "us-east-1"
_PIPELINE = (
    "catch_errors gatekeeper healthcheck listing_formats bulk s3api tempauth copy container-quotas account-quotas slo dlo "
    "versioned_writes symlink proxy-server"
)
_OPTIONS = {
    "tempauth": "user_test_tester = testing .admin",
    "s3api": f"s3_acl = false\ncheck_bucket_owner = false\nallow_no_owner = true\nlocation = {REGION}",
    "versioned_writes": "allow_versioned_writes = true\nallow_object_versioning = true",
}
_RINGS = """
import sys
from swift.common.ring import RingBuilder
for server, port in (each.split(":") for each in sys.argv[1:]):
    builder = RingBuilder(6, 1, 1)
    builder.add_dev(dict(region=1, zone=1, ip="127.0.0.1", port=int(port), device="d1", weight=1.0, id=0))
    builder.rebalance()
    builder.get_ring().save(f"{server}.ring.gz")
"""
_PATIENCE_S = 60


class NoSwiftError(Exception):
    """Swift cannot be installed here; the message says why."""


@dataclass(frozen=True)
class S3Server:
    """A running server: its address, and the files of its objects in `folder`."""

    endpoint: str
    folder: Path

    def environment(self) -> dict[str, str]:
        """What AWS's tools need to reach it."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
        }


def swift_programs() -> Path:
    """Folder of Swift's programs, installed once into the user's cache (MMFS_SWIFT names another environment). Raises NoSwiftError."""
    if given := os.environ.get("MMFS_SWIFT"):
        return Path(given) / "bin"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmfs-tests"
    target = cache / f"swift-{VERSION}-py{sys.version_info.major}.{sys.version_info.minor}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / "ready").exists():
            shutil.rmtree(target, ignore_errors=True)
            venv.create(target, with_pip=True)
            pip = [target / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
            done = subprocess.run([*pip, "setuptools<81", f"swift=={VERSION}"], capture_output=True, text=True, timeout=600, check=False)
            if done.returncode:
                raise NoSwiftError(f"swift {VERSION} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
            (target / "ready").touch()
    return target / "bin"


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A server whose configuration and objects lie in an empty folder, stopped at the end. Raises NoSwiftError."""
    programs = swift_programs()
    etc = folder / "etc"
    for each in (etc, folder / "srv" / "d1", folder / "cache", folder / "log"):
        each.mkdir(parents=True)
    ports = dict(zip(("account", "container", "object", "proxy"), _free_ports(4), strict=True))
    (etc / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = a\nswift_hash_path_suffix = b\n[storage-policy:0]\nname = Policy-0\ndefault = yes\n"
    )
    for server, port in ports.items():
        (etc / f"{server}-server.conf").write_text(_configuration(server, port, folder))
    rings = [f"{server}:{port}" for server, port in ports.items() if server != "proxy"]
    subprocess.run([programs / "python", "-c", _RINGS, *rings], cwd=etc, check=True, capture_output=True)
    with ExitStack() as stack:
        for server in ports:
            log = stack.enter_context((folder / "log" / server).open("wb"))
            command = [programs / f"swift-{server}-server", etc / f"{server}-server.conf"]
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            stack.callback(_end, process)
        endpoint = f"http://127.0.0.1:{ports['proxy']}"
        _wait(endpoint, folder)
        yield S3Server(endpoint, folder / "srv" / "d1" / "objects")


def _configuration(server: str, port: int, folder: Path) -> str:
    common = (
        f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {port}\nworkers = 1\nuser = {getpass.getuser()}\nswift_dir = {folder / 'etc'}\n"
        "log_level = WARNING\n"
    )
    if server != "proxy":
        return (
            f"{common}devices = {folder / 'srv'}\nmount_check = false\ndisable_fallocate = true\nrecon_cache_path = {folder / 'cache'}\n"
            f"[pipeline:main]\npipeline = {server}-server\n[app:{server}-server]\nuse = egg:swift#{server}\n"
        )
    sections = [f"{common}[pipeline:main]\npipeline = {_PIPELINE}"]
    for name in _PIPELINE.split()[:-1]:
        sections.append(f"[filter:{name}]\nuse = egg:swift#{name.replace('-', '_')}\n{_OPTIONS.get(name, '')}")
    sections.append("[app:proxy-server]\nuse = egg:swift#proxy\nallow_account_management = true\naccount_autocreate = true\n")
    return "\n".join(sections)


def _wait(endpoint: str, folder: Path) -> None:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{endpoint}/healthcheck", timeout=5) as answer:
                if answer.read() == b"OK":
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    logs = "\n".join(path.read_text(errors="replace")[-500:] for path in sorted((folder / "log").iterdir()))
    raise RuntimeError(f"the S3 server does not answer after {_PATIENCE_S} s:\n{logs}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and its workers, which are a process group."""
    for number in (15, 9):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
