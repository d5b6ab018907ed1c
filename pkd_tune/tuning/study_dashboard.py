"""Serves optuna-dashboard for a journal that a search may be writing to, read-only.

Reading takes no lock, so the search never waits. Requests that would change the journal (optuna-dashboard can delete
and rename studies, end trials and save notes) are refused: the search is its only writer.

    python -m pkd_tune.tuning.study_dashboard STUDY.LOG PORT
"""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_dashboard import wsgi

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def pages(journal: Path) -> Application:
    """Returns optuna-dashboard as a read-only WSGI application.

    Args:
        journal: The file; must exist, since Optuna would create an empty one.
    """
    dashboard: Application = wsgi(JournalStorage(JournalFileBackend(str(journal))))

    def read_only(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environment["REQUEST_METHOD"] in ("GET", "HEAD"):
            return dashboard(environment, start_response)
        start_response("405 Method Not Allowed", [("Content-Type", "application/json"), ("Allow", "GET, HEAD")])
        return [json.dumps({"reason": "this dashboard is read-only: only the search writes to the journal"}).encode()]

    return read_only


class Server(ThreadingMixIn, WSGIServer):
    """Handles each request in a thread of its own: a page makes several at once."""

    daemon_threads = True


class QuietRequestHandler(WSGIRequestHandler):
    """Logs no requests: an open page makes one every few seconds."""

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""


if __name__ == "__main__":
    make_server("127.0.0.1", int(sys.argv[2]), pages(Path(sys.argv[1])), Server, QuietRequestHandler).serve_forever()
