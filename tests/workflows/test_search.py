from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from pkd_tune.config import UserError
from pkd_tune.workflows.search import continued, locked


def test_two_searches_cannot_share_a_run_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UserError, match="another search is running there"), locked(tmp_path):
        pass
    with locked(tmp_path):  # it is free again
        pass


def test_a_lock_of_something_else_is_not_taken_for_another_search(tmp_path: Path) -> None:
    with FileLock(tmp_path / "other.lock"), pytest.raises(Timeout), locked(tmp_path):
        FileLock(tmp_path / "other.lock", timeout=0).acquire()


def test_a_run_keeps_its_id_and_its_beginning_when_it_goes_on() -> None:
    now = {"id": "new", "provenance": {"command": "b"}}
    before = {"id": "old", "provenance": {"command": "a"}}
    assert continued(before, now) == {**before, "continued_with": ["b"]}
