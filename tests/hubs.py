"""A server that speaks as much of the Hugging Face hub as a model's download needs, and can misbehave."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40


@dataclass
class Hub:
    """What the server has, how it behaves, and what it was asked."""

    folder: Path
    """Of the one model, owner/model."""
    address: str = ""
    weights: str = "whole"
    """What a request for the weights gives: whole; stalls, truncated, longer: after half of them; other content of the
    same size; or a status."""
    status: int = 200
    """Of every answer, if it is not 200."""
    listing: object = None
    """What a request for the list of files gives instead of that."""
    requests: list[str] = field(default_factory=list)
    """Methods and paths, and the first byte that was asked for."""


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """Serves a model folder as owner/model until the block ends."""
    hub = Hub(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            hub.requests.append(f"{self.command} {self.path} {start}")
            if hub.status != 200:
                self.reply(hub.status, b"", {})
            elif self.path.startswith("/api/models/owner/model/tree/"):
                tree = [
                    {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0" * 40}
                    for path in sorted(hub.folder.iterdir())
                ]
                self.reply(200, json.dumps(hub.listing or tree).encode(), {"Content-Type": "application/json"})
            elif self.path.startswith("/api/models/owner/model"):
                files = [{"rfilename": path.name} for path in sorted(hub.folder.iterdir())]
                content = {"id": "owner/model", "modelId": "owner/model", "sha": COMMIT, "siblings": files}
                self.reply(200, json.dumps(content).encode(), {"Content-Type": "application/json"})
            elif "/resolve/" in self.path:
                self.file(self.path.rpartition("/")[2], start, body=body)
            else:
                self.reply(404, b"", {})

        def file(self, name: str, start: int, *, body: bool) -> None:
            path = hub.folder / name
            if not path.is_file():
                self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            content = path.read_bytes()
            headers = {
                "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Repo-Commit": COMMIT,
                "Accept-Ranges": "bytes",
            }
            odd = body and name.endswith(".safetensors") and hub.weights != "whole"
            if odd and hub.weights.isdigit():
                gated = {"X-Error-Code": "GatedRepo"} if hub.weights == "403" else {}
                self.reply(int(hub.weights), b"", gated)
                return
            if odd and hub.weights == "other content":
                content = b"<html>".ljust(len(content), b" ")
            if odd and hub.weights == "longer":
                content += b"more"
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status = 206 if start else 200
            if not body or not odd or hub.weights in ("other content", "longer"):
                self.reply(status, content[start:], headers, body=body)
                return
            self.start(status, len(content) - start, headers)
            self.wfile.write(content[start : start + len(content) // 4])
            self.wfile.flush()
            if hub.weights == "stalls":
                time.sleep(3)
            self.close_connection = True

        def reply(self, status: int, content: bytes, headers: dict[str, str], *, body: bool = True) -> None:
            self.start(status, len(content), headers)
            if body and self.command != "HEAD":
                self.wfile.write(content)

        def start(self, status: int, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(length)}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
