"""A server that speaks as much of the Hugging Face hub as downloads of a model and a dataset need; it can misbehave."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil

COMMIT = "c" * 40


@dataclass
class Hub:
    """What the server has, how it behaves, and what it was asked."""

    folders: dict[str, Path]
    """Of the one model, models/owner/model, and of the one dataset, datasets/owner/data."""
    address: str = ""
    content: str = "whole"
    """What a request for a model's weights or a dataset's train split gives: whole; stalls, truncated, longer: after a
    part of it; other content of the same size, or other letters only; or a status."""
    status: int = 200
    """Of every answer, if it is not 200."""
    listing: object = None
    """What a request for the list of files gives instead of that."""
    requests: list[str] = field(default_factory=list)
    """Methods and paths, and the first byte that was asked for."""
    clients: set[int] | None = None
    """Set to an empty set, it receives the ids of the processes that ask."""
    over: threading.Event = field(default_factory=threading.Event)
    """Set when the server ends; then it stalls no more."""

    def downloads(self) -> list[str]:
        """Returns the names of the files whose content was asked for, and the first byte."""
        found = [each for each in self.requests if each.startswith("GET") and "/resolve/" in each]
        return [each.rpartition("/")[2] for each in found]


@contextmanager
def serve(model: Path | None = None, dataset: Path | None = None) -> Iterator[Hub]:
    """Serves folders as the model owner/model and the dataset owner/data until the block ends."""
    given = {"models/owner/model": model, "datasets/owner/data": dataset}
    hub = Hub({name: folder for name, folder in given.items() if folder is not None})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            hub.requests.append(f"{self.command} {self.path} {start}")
            if hub.clients is not None:
                hub.clients |= {
                    connection.pid
                    for connection in psutil.net_connections("tcp")
                    if connection.laddr == self.client_address and connection.pid is not None
                }
            of_repository = re.match(r"/api/((?:models|datasets)/owner/\w+)(/tree/[^/?]*([^?]*))?", self.path)
            of_file = re.fullmatch(r"/(datasets/)?(owner/\w+)/resolve/[^/]*/(.*)", self.path)
            if hub.status != 200:
                self.reply(hub.status, b"", {})
            elif of_repository is not None and of_repository[1] in hub.folders:
                repository, listed, below = of_repository.groups()
                names = [] if below else sorted(hub.folders[repository].iterdir())
                if listed:
                    found: object = [
                        {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0" * 40}
                        for path in names
                    ]
                    found = hub.listing or found
                else:
                    name = repository.partition("/")[2]
                    files = [{"rfilename": path.name} for path in names]
                    found = {"id": name, "modelId": name, "sha": COMMIT, "siblings": files}
                self.reply(200, json.dumps(found).encode(), {"Content-Type": "application/json"})
            elif of_file is not None and f"{of_file[1] or 'models/'}{of_file[2]}" in hub.folders:
                folder = hub.folders[f"{of_file[1] or 'models/'}{of_file[2]}"]
                self.file(folder / of_file[3], start, body=body)
            else:
                self.reply(404, b"", {})

        def file(self, path: Path, start: int, *, body: bool) -> None:
            if not path.is_file():
                self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            content = path.read_bytes()
            headers = {
                "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Repo-Commit": COMMIT,
                "Accept-Ranges": "bytes",
            }
            odd = body and path.name.endswith((".safetensors", "train.csv")) and hub.content != "whole"
            if odd and hub.content.isdigit():
                gated = {"X-Error-Code": "GatedRepo"} if hub.content == "403" else {}
                self.reply(int(hub.content), b"", gated)
                return
            if odd and hub.content == "other content":
                content = b"<html>".ljust(len(content), b" ")
            if odd and hub.content == "other letters":
                content = content.replace(b"d", b"t")
            if odd and hub.content == "longer":
                content += b"more"
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status = 206 if start else 200
            if not body or not odd or hub.content in ("other content", "other letters", "longer"):
                self.reply(status, content[start:], headers, body=body)
                return
            self.start(status, len(content) - start, headers)
            self.wfile.write(content[start : start + len(content) // 4])
            self.wfile.flush()
            if hub.content == "stalls":
                hub.over.wait(3)
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
        hub.over.set()
        server.shutdown()
        server.server_close()
