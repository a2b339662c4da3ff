"""Fixtures that several tests of components share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from swift_server import NoSwiftError, S3Server, s3_server
from training_world import environment

from components.launch.warm import warm_ranks


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server without buckets."""
    try:
        with s3_server(tmp_path_factory.mktemp("swift")) as running:
            yield running
    except NoSwiftError as error:
        pytest.skip(f"no S3 server: {error}")


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Variables that lead to a zygote, so that the heavy imports are paid for once in all tests that train."""
    log = tmp_path_factory.mktemp("warm") / "zygote.log"
    with warm_ranks(environment(), Path.cwd(), log) as variables:
        yield variables
