"""What a run needs of its surroundings."""

import os
from pathlib import Path

import pytest

from pkd_tune.config import UserError
from pkd_tune.tuning import cluster
from pkd_tune.workflows.environment import check_environment, describe, problems_of


def test_a_usable_machine_has_no_problems_and_nothing_is_left_in_its_folders(tmp_path: Path) -> None:
    folders = {"--data-dir": tmp_path, "--out": tmp_path / "not" / "yet"}
    assert problems_of(folders) == []
    assert list(tmp_path.iterdir()) == []


def test_everything_that_would_stop_a_search_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(cluster, "SESSION_BYTES", 10**18)
    monkeypatch.setattr(os, "replace", lambda *paths: os.open("/dev/full/x", os.O_RDONLY))
    with pytest.raises(UserError) as raised:
        check_environment({"--out": tmp_path / "file" / "results", "--data-dir": tmp_path})
    space, out, data = raised.value.problems
    assert "but Ray needs" in space
    assert "set TMPDIR to another folder" in space
    assert out.endswith("is a file; give a folder")
    assert "its file system refuses to rename a file over another" in data


def test_a_report_has_folders_and_versions_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "ray_secret")
    found = dict(describe({"--out": tmp_path}))
    assert {"torch", "ray", "CPU", "GPU", "memory", "home", "temporary", "--out", "HF_HUB_OFFLINE"} <= found.keys()
    assert "writable" in found["--out"]
    assert not any("secret" in value for value in found.values())
