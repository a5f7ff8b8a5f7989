"""Serves the page of ``limaml demo --live``, on the loopback interface only."""

from __future__ import annotations

import json
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tfrec_limaml.demo.live import LiveList
from tfrec_limaml.errors import LimamlError

_PAGE = Path(__file__).with_name("live.html")
_LONGEST_BODY = 1000


class LiveServer(ThreadingHTTPServer):
    """Serves the page, its state and clicks on loopback.

    Args:
        live_list: The list that the page shows.
        port: Port of the page; 0 for a free one.
    """

    daemon_threads = True

    def __init__(self, live_list: LiveList, port: int) -> None:
        self.live_list = live_list
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise LimamlError(
                f"cannot serve the page on port {port}: {error}; choose another with --port"
            ) from error

    @property
    def address(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer

    def do_GET(self) -> None:
        if self.path == "/":
            self._send(HTTPStatus.OK, _PAGE.read_bytes(), "text/html; charset=utf-8")
        elif self.path == "/state":
            self._json(HTTPStatus.OK, self.server.live_list.state())
        else:
            self._json(HTTPStatus.NOT_FOUND, {"error": f"no page at {self.path}"})

    def do_POST(self) -> None:
        if self.path != "/click":
            self._json(HTTPStatus.NOT_FOUND, {"error": f"no page at {self.path}"})
            return
        try:
            candidate, clicked = self._click()
            self._json(HTTPStatus.OK, self.server.live_list.click(candidate, clicked))
        except LimamlError as error:
            self._json(HTTPStatus.BAD_REQUEST, {"error": str(error)})

    def _click(self) -> tuple[int, bool]:
        """Reads a JSON body.

        It must have JSON's content type, which a form on another site cannot send without
        permission.
        """
        if self.headers.get_content_type() != "application/json":
            raise LimamlError("expected application/json")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _LONGEST_BODY:
            raise LimamlError(f"expected at most {_LONGEST_BODY} bytes, received {length!r}")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except ValueError as error:
            raise LimamlError(f"not JSON: {error}") from error
        candidate = body.get("candidate") if isinstance(body, dict) else None
        if type(candidate) is not int:
            raise LimamlError('expected {"candidate": N, "clicked": true}')
        return candidate, bool(body.get("clicked", True))

    def _json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
