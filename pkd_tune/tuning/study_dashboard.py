"""Serves optuna-dashboard for a journal that a search may be writing to; the journal is only read.

Reading it takes no lock, so the search never waits. What would change it (optuna-dashboard can delete and rename
studies, end trials and keep notes) is refused: a journal has one writer, its search.

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
    """Returns optuna-dashboard as a WSGI application that changes nothing.

    Args:
        journal: Must exist; Optuna would begin an empty one.
    """
    dashboard: Application = wsgi(JournalStorage(JournalFileBackend(str(journal))))

    def read_only(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environment["REQUEST_METHOD"] in ("GET", "HEAD"):
            return dashboard(environment, start_response)
        start_response("405 Method Not Allowed", [("Content-Type", "application/json"), ("Allow", "GET, HEAD")])
        return [json.dumps({"reason": "this dashboard only reads: the journal belongs to the search"}).encode()]

    return read_only


class Server(ThreadingMixIn, WSGIServer):
    """Answers every request in a thread of its own: a page asks for several things at once."""

    daemon_threads = True


class Silent(WSGIRequestHandler):
    """Logs no requests: an open page makes one every few seconds."""

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


if __name__ == "__main__":
    make_server("127.0.0.1", int(sys.argv[2]), pages(Path(sys.argv[1])), Server, Silent).serve_forever()
