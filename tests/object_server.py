"""An S3 server on loopback whose answers can be counted, refused, cut short or lost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.request import Request, urlopen


class Call(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    query: str
    span: str | None


class ObjectServer:
    """moto's S3 behind a door: `fault` sees every request first and may answer it."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log_request(self, *_: Any) -> None: ...

            def log(self, *_: Any) -> None: ...

        self._app = DomainDispatcherApplication(create_backend_app)
        self.calls: list[Call] = []
        self.fault: Callable[[Call, dict[str, Any]], Fault | None] | None = None
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def make_bucket(self, name: str) -> None:
        urlopen(Request(f"{self.url}/{name}", method="PUT")).read()  # noqa: S310 - loopback

    def close(self) -> None:
        self._server.shutdown()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        call = Call(
            environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", ""), environ.get("HTTP_RANGE")
        )
        self.calls.append(call)
        fault = self.fault(call, environ) if self.fault else None
        if fault is None:
            return self._app(environ, start)
        return fault(self._app, environ, start)


Fault = Callable[[Any, dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def status(code: int, name: str) -> Fault:
    """Answer with an S3 error."""

    def answer(_app: Any, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = f"<Error><Code>{name}</Code><Message>as the test wants it</Message></Error>".encode()
        start(f"{code} {name}", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    return answer


def lost(app: Any, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """Do what was asked, but close the connection instead of saying so."""
    list(app(environ, lambda *_: None))
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    start("200 OK", [])
    return []


def cut(app: Any, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """Half of the answer's body, then the connection closes."""
    body = b"".join(app(environ, start))
    return [body[: len(body) // 2]]
