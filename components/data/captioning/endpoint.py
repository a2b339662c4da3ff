"""A captioner behind an OpenAI-compatible endpoint: chat completions with pictures. What it answers is hostile until checked."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import httpx
from pydantic import BaseModel, Field, SecretStr, ValidationError

from components.curation_params import EndpointParams
from components.data.captioning.request import Reply, Request
from components.run.failures import FailureClass, StageError

_AGAIN = {408, 409, 425, 429}
_DENIED = {401, 403, 404, 405}


class _Message(BaseModel):
    content: str
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: Literal["stop", "length", "content_filter"] | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(0, ge=0)
    completion_tokens: int = Field(0, ge=0)


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class _Failed(Exception):
    """An attempt failed: for good, or in a way that may not come again. `pause_s` is what the endpoint asks for."""

    def __init__(self, problem: str, pause_s: float = 0.0, for_good: bool = False) -> None:
        super().__init__(problem)
        self.pause_s, self.for_good = pause_s, for_good


class EndpointCaptioner:
    """Asks `ADDRESS/chat/completions` at temperature 0. Neither address nor key are ever part of a message, a log or an output."""

    converses = True
    usual_prompt = "Describe the picture in one sentence."

    def __init__(self, address: str, key: SecretStr | None, params: EndpointParams) -> None:
        parsed = httpx.URL(address)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise StageError(FailureClass.BAD_CONFIG, "MMFS_VLM_ENDPOINT is no http address", "set it to one such as https://host/v1")
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every address
        self._params = params
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else {},
            timeout=params.timeout_s,
            limits=httpx.Limits(max_connections=params.concurrency),
            follow_redirects=False,  # pictures and key go to the endpoint that was named
        )
        self._address = parsed.copy_with(path=parsed.path.rstrip("/") + "/chat/completions")
        self.name = f"endpoint:{params.model}"
        asked = {"model": params.model, "max_tokens": params.max_tokens, "temperature": 0}
        self.digest = hashlib.sha256(json.dumps(["endpoint", asked], sort_keys=True).encode()).hexdigest()

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request, `concurrency` at once. Raises StageError where the endpoint refuses the key or is not there at all."""
        with ThreadPoolExecutor(self._params.concurrency, thread_name_prefix="endpoint") as pool:
            tasks = [pool.submit(self._answer, one) for one in requests]
            try:
                return [task.result() for task in tasks]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _answer(self, request: Request) -> Reply:
        began, problem = time.perf_counter(), ""
        for attempt in range(self._params.attempts):
            try:
                reply = self._checked(self._post(self._body(request)))
                return Reply(reply.text, reply.problem, time.perf_counter() - began, reply.usd)
            except _Failed as error:
                if error.for_good:
                    return Reply(None, str(error), time.perf_counter() - began)
                problem = str(error)
                if attempt + 1 < self._params.attempts:
                    time.sleep(min(self._params.max_backoff_s, max(error.pause_s, self._params.backoff_s * 2**attempt)))
        return Reply(None, f"{problem} ({self._params.attempts} attempts)", time.perf_counter() - began)

    def _body(self, request: Request) -> dict[str, Any]:
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": _data_uri(data)}} for data in request.pictures]
        parts.append({"type": "text", "text": request.prompt})
        return {
            "model": self._params.model,
            "messages": [{"role": "user", "content": parts}],
            "max_tokens": self._params.max_tokens,
            "temperature": 0,
        }

    def _post(self, body: dict[str, Any]) -> bytes:
        """The answer's bytes, read no longer and no further than allowed, whatever pace they come at."""
        deadline = time.monotonic() + self._params.timeout_s
        data = bytearray()
        try:
            with self._client.stream("POST", self._address, json=body) as response:
                self._check_status(response)
                for piece in response.iter_bytes():
                    data += piece
                    if len(data) > self._params.max_answer_bytes:
                        raise _Failed(f"the answer is longer than {self._params.max_answer_bytes} bytes")
                    if time.monotonic() > deadline:
                        raise _Failed(f"the answer took longer than {self._params.timeout_s:g} s")
        except httpx.TimeoutException:
            raise _Failed(f"no answer in {self._params.timeout_s:g} s") from None
        except httpx.HTTPError as error:
            raise _Failed(f"the connection failed: {type(error).__name__}") from None
        return bytes(data)

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == 200:
            return
        if status in _DENIED:
            raise StageError(
                FailureClass.BAD_CONFIG, f"the endpoint answers {status}", "check MMFS_VLM_ENDPOINT, MMFS_VLM_KEY and the model's name"
            )
        if status in _AGAIN or status >= 500:
            pause = response.headers.get("retry-after", "")
            raise _Failed(f"the endpoint answers {status}", float(pause) if pause.isdecimal() and len(pause) < 6 else 0.0)
        raise _Failed(f"the endpoint answers {status}", for_good=True)

    def _checked(self, data: bytes) -> Reply:
        try:
            completion = _Completion.model_validate_json(data)
        except (ValidationError, RecursionError) as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else ""
            raise _Failed(f"the answer is no chat completion{f' ({where})' if where else ''}") from None
        choice, usd = completion.choices[0], self._price(completion.usage)
        if choice.finish_reason == "content_filter" or choice.message.refusal:
            return Reply(None, "the endpoint refuses this request", usd=usd)
        if choice.finish_reason == "length":
            return Reply(None, f"the answer is cut at {self._params.max_tokens} tokens", usd=usd)
        return Reply(choice.message.content, usd=usd)

    def _price(self, usage: _Usage | None) -> float | None:
        given, made = self._params.usd_per_million_input_tokens, self._params.usd_per_million_output_tokens
        if usage is None or given is None or made is None:
            return None
        return (usage.prompt_tokens * given + usage.completion_tokens * made) / 1e6


def _data_uri(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
