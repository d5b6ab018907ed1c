"""Requests as the command line makes them."""

from pkd_tune.search import make_parser
from pkd_tune.workflows.options import SearchOptions, make_options
from pkd_tune.workflows.request import SearchRequest, resolve_search


def search_request(*flags: str) -> SearchRequest:
    """Returns the request of `python -m pkd_tune.search` with these flags."""
    values = vars(make_parser().parse_args(flags))
    del values["dry_run"], values["check"]
    return resolve_search(make_options(SearchOptions, values), "python -m pkd_tune.search")
