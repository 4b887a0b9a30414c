"""Errors in the form that OpenAI's clients read: {"error": {message, type, param, code}} with the status that fits."""

from __future__ import annotations

import json

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from specexp.errors import UserError

TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error", 500: "server_error",
    503: "server_error",
}  # fmt: skip


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict:
    return {"error": {"message": message, "type": TYPES.get(status, "invalid_request_error"), "param": param, "code": code}}


def refusal(
    status: int, message: str, param: str | None = None, code: str | None = None, headers: dict[str, str] | None = None
) -> HTTPException:
    """The exception to raise for a request that is refused."""
    return HTTPException(status, error_body(status, message, param, code)["error"], headers)


def failure() -> HTTPException:
    """The exception to raise when the server itself fails."""
    return refusal(500, "the request failed; the server's log tells more.")


class Refusal(JSONResponse):
    """An error in ASCII, since it may quote a text of the request that cannot be written in UTF-8: half an emoji."""

    def render(self, content: dict) -> bytes:
        return json.dumps(content).encode()


def add_handlers(app: FastAPI) -> None:
    """Answer every error in one form, FastAPI's own errors included."""

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> Refusal:
        body = {"error": error.detail} if isinstance(error.detail, dict) else error_body(error.status_code, str(error.detail))
        return Refusal(body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Refusal:
        return Refusal({"error": failure().detail}, 500)

    @app.exception_handler(UserError)
    async def unusable(request: Request, error: UserError) -> Refusal:
        return Refusal(error_body(400, str(error)), 400)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Refusal:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return Refusal(error_body(400, "the body is not JSON; send an object."), 400)
        if "sentence" in first.get("ctx", {}):
            return Refusal(error_body(400, first["ctx"]["sentence"], first["ctx"]["field"]), 400)
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        message = first["msg"].removeprefix("Value error, ")
        return Refusal(error_body(422, f"{place or 'the body'}: {message}.", place or None), 422)


class BodyLimit:
    """ASGI middleware: a body of more than `limit` bytes gets 413, whether or not its length was announced."""

    def __init__(self, app: ASGIApp, limit: int):
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self.limit:
            error = self._refusal()
            await Refusal({"error": error.detail}, 413)(scope, receive, send)
            return
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise self._refusal()
            return message

        await self.app(scope, limited, send)

    def _refusal(self) -> HTTPException:
        return refusal(413, f"the body has more than {self.limit} bytes; send less, or start the server with a larger server.body_bytes.")
