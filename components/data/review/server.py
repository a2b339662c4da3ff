"""The review page, served to this machine alone. Every request carries the token that was printed with the address."""

from __future__ import annotations

import secrets
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from components.data.documents import CorpusError, DocumentError
from components.data.pictures import PictureError, decode
from components.data.review.decisions import Decision
from components.data.review.review import Review, as_shown, summary
from components.evaluation.html import environment

LOCAL = ("127.0.0.1", "localhost")
_MAX_PIXELS = 100_000_000
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'nonce-{nonce}'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Finish(BaseModel):
    """Asks for the reviewed version."""

    model_config = ConfigDict(extra="forbid")
    keep_undecided: bool = Field(description="whether documents that nobody decided about go into it")


def make_app(review: Review, target: Path, by: str, token: str) -> FastAPI:
    """The application: the page, documents, pictures, decisions by `by`, and writing the new version to `target`."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.middleware("http")
    async def guard(request: Request, call_next):  # type: ignore[no-untyped-def]
        # A page of another site can make the browser call here: it knows neither the token nor, after rebinding a name, our host.
        host = (request.headers.get("host") or "").rpartition(":")[0] or request.headers.get("host")
        given = request.headers.get("x-token") or request.query_params.get("token") or ""
        if host not in LOCAL or not secrets.compare_digest(given.encode(), token.encode()):
            return JSONResponse({"detail": "open the address that `mmfs data review` printed"}, status_code=403)
        return await call_next(request)

    @app.get("/")
    def page() -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        html = environment().get_template("review.html.j2").render(folder=review.folder.name, target=str(target), nonce=nonce, token=token)
        return HTMLResponse(html, headers={name: value.replace("{nonce}", nonce) for name, value in _HEADERS.items()})

    @app.get("/documents")
    def documents() -> list[dict[str, object]]:
        return summary(review)

    @app.get("/documents/{document}")
    def one(document: str) -> dict[str, object]:
        with _named():
            return as_shown(review, document)

    @app.get("/pictures/{document}/{number}")
    def picture(document: str, number: int) -> Response:
        with _named():
            data = review.picture(document, number)
            decode(data, _MAX_PIXELS)
        kind = "image/jpeg" if data.startswith(b"\xff\xd8") else "image/png"
        return Response(data, media_type=kind, headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"})

    @app.post("/decisions")
    def decide(decision: Decision) -> dict[str, str]:
        with _named():
            review.decide(decision.model_copy(update={"by": by}))
        return {"action": decision.action}

    @app.post("/finish")
    def finish(asked: Finish) -> dict[str, object]:
        with _named():
            written = review.write(target, asked.keep_undecided)
        return {name: str(value) if isinstance(value, Path) else value for name, value in vars(written).items()}

    return app


class _named:
    """Problems of documents and folders as answers that say what is wrong."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DocumentError | PictureError | CorpusError):
            raise HTTPException(422, str(error)) from None
