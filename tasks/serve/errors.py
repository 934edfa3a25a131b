"""Errors that clients see, in the form of OpenAI: {"error": {"message", "type", "param", "code"}}."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ...tokenizer.files import printable

logger = logging.getLogger(__name__)

# What a message about a wrong status says if there is nothing better.
_MESSAGES = {404: "there is no such path: GET /openapi.json lists them", 405: "this path does not take this method"}


class ErrorDetails(BaseModel):
    """What went wrong: a sentence, a class of errors, the parameter at fault, and a short name."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Body of every response with an error."""

    error: ErrorDetails


class ApiError(HTTPException):
    """An error with the body that clients of OpenAI expect.

    Args:
        status: HTTP status.
        message: A sentence for the user, without paths of this machine.
        param: Name of the parameter at fault.
        code: Short name of the error, for programs.
        headers: Headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.param = param
        self.code = code

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response."""
        return error_body(self.status_code, self.detail, self.param, self.code)


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Return the body of a response with an error."""
    kind = "invalid_request_error"
    if status == 429:
        kind = "rate_limit_error"
    elif status >= 500:
        kind = "server_error"
    # A message may quote what a client sent, such as halves of surrogate pairs, which JSON cannot hold.
    return {"error": {"message": printable(message), "type": kind, "param": param, "code": code}}


def error_response(error: HTTPException) -> JSONResponse:
    """Return the response for an error."""
    if isinstance(error, ApiError):
        body = error.body
    else:
        body = error_body(error.status_code, _MESSAGES.get(error.status_code, str(error.detail)))
    return JSONResponse(body, error.status_code, error.headers)


def add_error_handlers(app: FastAPI) -> None:
    """Let an app answer every error in the same form, without paths and stack traces of this machine."""

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(from_validation(error.errors()))

    @app.exception_handler(ClientDisconnect)
    async def client_disconnect(request: Request, error: ClientDisconnect) -> Response:
        # Nobody reads this response. The number is that of nginx.
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> JSONResponse:
        # The server logs the stack trace.
        return JSONResponse(error_body(500, "internal error: the log of the server describes it"), 500)


def from_validation(errors: Any) -> ApiError:
    """Return the error for what pydantic found in a request.

    Args:
        errors: `ValidationError.errors()`, of which the first is reported.
    """
    first = errors[0]
    # The location begins with "body", "query" or "path".
    names = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    param = printable(".".join(names)) or None
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON", code="invalid_json")
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{param}: {message}" if param else message, param, first["type"])
