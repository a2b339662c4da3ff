"""Objects of a DVC remote on S3: by range or whole, with DVC's own settings for the endpoint, and errors that name object and command."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from components.data.documents import CorpusError
from components.data.shards import Shard
from components.run.dvc_remote import remote_options
from components.run.failures import FailureClass, StageError

CONNECTIONS = 16
_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.2
_CHUNK = 1 << 20
_PATIENCE_S = 30
T = TypeVar("T")


class S3Objects:
    """The store at `s3://bucket/prefix`. Safe for threads; a process that was forked needs one of its own."""

    def __init__(self, address: str, repository: Path | None, attempts: int = _ATTEMPTS) -> None:
        """Endpoint and keys as DVC has them in the checkout `repository`, otherwise as AWS tools find them (AWS_*, ~/.aws)."""
        parts = urlsplit(address)
        self.address = address.rstrip("/")
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/")
        self._attempts = attempts
        self._client = _client({} if repository is None else remote_options(repository, address))

    def name(self, shard: Shard) -> str:
        """The object of a shard, for people."""
        return f"{self.address}/{_key(shard)}"

    def read(self, shard: Shard, offset: int, length: int) -> bytes:
        """A byte range of a shard. Raises CorpusError when the object is absent or of another size, StageError when S3 does not answer."""

        def once() -> bytes:
            answer = self._get(shard, Range=f"bytes={offset}-{offset + length - 1}")
            self._check_size(shard, int(answer["ContentRange"].rpartition("/")[2]))
            return _whole(answer["Body"].read(), length)

        return self._persist(shard, once)

    def download(self, shard: Shard, file: BinaryIO) -> None:
        """The whole shard into a file, from its beginning. Raises as `read`."""

        def once() -> None:
            file.seek(0)
            answer = self._get(shard)
            self._check_size(shard, answer["ContentLength"])
            written = 0
            for chunk in answer["Body"].iter_chunks(_CHUNK):
                written += file.write(chunk)
            if written != shard.size:
                raise ConnectionError(f"{written} bytes of {shard.size}")

        self._persist(shard, once)

    def _get(self, shard: Shard, **how: str) -> Any:
        return self._client.get_object(Bucket=self._bucket, Key="/".join(filter(None, (self._prefix, _key(shard)))), **how)

    def _persist(self, shard: Shard, once: Callable[[], T]) -> T:
        """Call until it works, with growing pauses: botocore repeats a request, but not one whose answer breaks off."""
        from botocore import exceptions as raised

        pause = _FIRST_PAUSE_S
        for attempt in range(1, self._attempts + 1):
            try:
                return once()
            except raised.ClientError as error:
                if not _passing(error) or attempt == self._attempts:
                    raise self._refused(shard, error) from None
            except raised.NoCredentialsError:
                raise self._no_access("no keys were found") from None
            except (raised.HTTPClientError, raised.ConnectionError, raised.IncompleteReadError, ConnectionError, TimeoutError) as error:
                if attempt == self._attempts:
                    message = f"{self.name(shard)} cannot be fetched after {attempt} attempts: {error}"
                    raise StageError(
                        FailureClass.INFRASTRUCTURE, message, "look whether the remote answers: `dvc status --cloud`"
                    ) from None
            except raised.BotoCoreError as error:
                raise StageError(
                    FailureClass.BAD_CONFIG, f"{self.address}: {error}", "look at the remote's settings in .dvc/config"
                ) from None
            time.sleep(pause)
            pause *= 2
        raise AssertionError("unreachable")

    def _refused(self, shard: Shard, error: Any) -> StageError:
        status, code = error.response["ResponseMetadata"].get("HTTPStatusCode"), error.response["Error"].get("Code")
        if status == 404:
            return missing(shard, f"{self.name(shard)} ({code})")
        if status == 416:
            return CorpusError(
                f"{self.name(shard)} is shorter than shard {shard.name} of the index; run `dvc push --force` where it is whole"
            )
        if status in (400, 401, 403):
            return self._no_access(f"{code} for {self.name(shard)}")
        return StageError(FailureClass.INFRASTRUCTURE, f"{self.name(shard)}: {code} ({status})", "try again when the remote answers")

    def _no_access(self, what: str) -> StageError:
        fix = "set its keys by `dvc remote modify --local` or in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return StageError(FailureClass.BAD_CONFIG, f"the remote {self.address} refuses access: {what}", fix)

    def _check_size(self, shard: Shard, size: int) -> None:
        if size != shard.size:
            raise CorpusError(
                f"{self.name(shard)} has {size} bytes, shard {shard.name} has {shard.size}; run `dvc push --force` where it is whole"
            )


def missing(shard: Shard, where: str) -> CorpusError:
    """A shard that lies nowhere."""
    return CorpusError(
        f"shard {shard.name} is not in {where}; run `dvc push outputs/shards` where it was prepared, or `dvc repro prepare` here"
    )


def _key(shard: Shard) -> str:
    return f"files/md5/{shard.md5[:2]}/{shard.md5[2:]}"


def _passing(error: Any) -> bool:
    """Whether an answer says that another try may be answered better: overloaded or broken for a moment."""
    return error.response["ResponseMetadata"].get("HTTPStatusCode", 500) in (429, 500, 502, 503, 504)


def _whole(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise ConnectionError(f"{len(data)} bytes of {length}")
    return data


def _client(options: dict[str, str]) -> Any:
    import boto3
    import botocore.session
    from botocore.config import Config

    session = botocore.session.Session(profile=options.get("profile"))
    for option, variable in (("credentialpath", "credentials_file"), ("configpath", "config_file")):
        if option in options:
            session.set_config_variable(variable, options[option])
    endpoint = options.get("endpointurl")
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 2},  # `_persist` goes on
        max_pool_connections=CONNECTIONS,
        connect_timeout=float(options.get("connect_timeout", _PATIENCE_S)),
        read_timeout=float(options.get("read_timeout", _PATIENCE_S)),
        s3={"addressing_style": "path"} if endpoint else None,
    )
    verify = options.get("ssl_verify")
    return boto3.Session(botocore_session=session).client(
        "s3",
        region_name=options.get("region"),
        endpoint_url=endpoint,
        aws_access_key_id=options.get("access_key_id"),
        aws_secret_access_key=options.get("secret_access_key"),
        aws_session_token=options.get("session_token"),
        verify=None if verify is None or verify.lower() == "true" else False if verify.lower() == "false" else verify,
        config=config,
    )
