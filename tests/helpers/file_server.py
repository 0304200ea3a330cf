"""A web server on this machine that holds one file and misbehaves as told, one act per request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Act:
    """What one request gets.

    ``cut`` bytes are sent before the connection ends; ``more`` bytes follow the file; ``said`` is the length that is
    announced ("none" for no length at all); ``stall`` waits without sending until the server is closed.
    """

    status: int = 200
    location: str | None = None
    cut: int | None = None
    more: int = 0
    said: int | str | None = None
    ignore_range: bool = False
    range_said: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    stall: bool = False
    chunked: bool = False


class FileServer:
    """``url`` of the file, the acts still to come (then good ones), and what was asked."""

    def __init__(self, data: bytes, etag: str | None = '"one"') -> None:
        self.data, self.etag = data, etag
        self.acts: list[Act] = []
        self.asked: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.closing = threading.Event()
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.httpd.server_port}/weights.pth"


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            server.asked.append({name.lower(): value for name, value in self.headers.items()})
            server.paths.append(self.path)
            act = server.acts.pop(0) if server.acts else Act()
            self.close_connection = True
            if act.location is not None or act.status not in (200, 206):
                self.send_response(act.status)
                if act.location is not None:
                    self.send_header("Location", act.location)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.answer(act)

        def answer(self, act: Act) -> None:
            start = 0
            wanted = self.headers.get("Range", "")
            same = self.headers.get("If-Range") in (None, server.etag, act.headers.get("Last-Modified"))
            if wanted.startswith("bytes=") and same and not act.ignore_range:
                start = int(wanted[6:].rstrip("-"))
                if start >= len(server.data):
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            body = server.data[start:] + b"x" * act.more
            self.send_response(206 if start else 200)
            if start:
                place = act.range_said or f"bytes {start}-{len(server.data) - 1}/{len(server.data)}"
                self.send_header("Content-Range", place)
            if act.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif act.said != "none":
                self.send_header("Content-Length", str(len(body) if act.said is None else act.said))
            if server.etag is not None:
                self.send_header("ETag", server.etag)
            for name, value in act.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if act.stall:
                self.wfile.write(body[:10])
                server.closing.wait(20)
                return
            sent = body if act.cut is None else body[: max(0, act.cut - start)]
            if act.chunked:
                self.wfile.write(b"%x\r\n" % len(sent) + sent + b"\r\n" + (b"" if act.cut else b"0\r\n\r\n"))
            else:
                self.wfile.write(sent)

    return Handler


@contextmanager
def serving(data: bytes, etag: str | None = '"one"') -> Iterator[FileServer]:
    """A `FileServer` that runs while the context is open."""
    server = FileServer(data, etag)
    thread = threading.Thread(target=server.httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.httpd.shutdown()
        server.httpd.server_close()
        thread.join()
