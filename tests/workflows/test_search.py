from dataclasses import replace
from pathlib import Path

import pytest
import ray
from filelock import FileLock, Timeout
from requests_of import search_request

from pkd_tune.config import UserError
from pkd_tune.files import write_json
from pkd_tune.workflows.search import continued, locked, plan_search, search


def test_two_searches_cannot_share_a_run_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UserError, match="another search is running there"), locked(tmp_path):
        pass
    with locked(tmp_path):  # it is free again
        pass


def test_a_lock_of_something_else_is_not_taken_for_another_search(tmp_path: Path) -> None:
    with FileLock(tmp_path / "other.lock"), pytest.raises(Timeout), locked(tmp_path):
        FileLock(tmp_path / "other.lock", timeout=0).acquire()


def test_a_run_keeps_its_id_and_its_beginning_when_it_goes_on() -> None:
    one, two = ({"device": "cpu", "count": count, "threads": 2 // count} for count in (1, 2))
    now = {"id": "new", "provenance": {"command": "b"}, "resources": two}
    before = {"id": "old", "provenance": {"command": "a"}, "resources": one}
    after = continued(before, now)
    assert after == {**before, "continued_with": ["b"], "continued_on": [two]}
    assert continued(after, now) == continued(after, {**now, "resources": one}) == after


def test_a_run_does_not_learn_from_itself_twice(tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "results" / "MRPC" / "tiny"
    write_json(run / "run.json", {})
    flags = ("--task", "MRPC", "--data-dir", str(tiny_data), "--teacher", "tiny", "--out", str(tmp_path / "results"))
    request = search_request(*flags, "--gpus", "0", "--set", "training.max_length=64", "--warm-start", str(run))
    with pytest.raises(UserError, match=r"--warm-start .*tiny: is the run itself"):
        search(request)


def test_published_settings_are_tried_first_but_not_by_narrower_students(tiny_data: Path, tmp_path: Path) -> None:
    request = search_request("--task", "MRPC", "--data-dir", str(tiny_data), "--teacher", "tiny", "--depths", "3")
    first = {}
    for width in (384, 768):
        folder = tmp_path / str(width)
        write_json(folder / "config.json", {"model_type": "bert", "hidden_size": width})
        data = replace(request.config.data, student_dir=folder)
        plans = plan_search(replace(request, config=replace(request.config, data=data)))
        first[width] = {plan.study_key.method: [settings["learning_rate"] for settings in plan.first] for plan in plans}
    assert first[384] == {"pkd": [], "kd": [], "finetuned": []}
    assert first[768] == {"pkd": [2e-5, 2e-5], "kd": [2e-5], "finetuned": []}


def test_a_search_does_not_use_ray_that_runs_in_the_process(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--task", "MRPC", "--gpus", "0", "--data-dir", str(tiny_data), "--teacher", "tiny")
    request = search_request(*flags, "--out", str(tmp_path / "results"))
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(UserError, match="Ray runs in this process already"):
        search(request)
    assert not (tmp_path / "results").exists()
