from pathlib import Path
from typing import Any

import pytest

from pkd_tune.config import UserError
from pkd_tune.run_folder import check_same_search, choose_run_folder


def test_the_latest_run_is_continued_unless_a_new_one_is_asked_for(tmp_path: Path) -> None:
    def choose(new: bool) -> str:
        return choose_run_folder(tmp_path / "MRPC", "minilm", new=new).name

    assert choose(new=False) == choose(new=True) == "minilm"
    for name in ("minilm", "minilm-2", "minilm-10", "minilm-large", "other-99"):
        (tmp_path / "MRPC" / name).mkdir(parents=True)
    assert choose(new=False) == "minilm-10"
    assert choose(new=True) == "minilm-11"


def test_differing_settings_are_all_named(tmp_path: Path) -> None:
    before = {"search": {"trials": 8, "seed": 1, "depths": [2, 3], "data": {"task": "MRPC", "data_dir": "/a"}}}
    now = {"search": {"trials": 9, "seed": 2, "depths": [2], "data": {"task": "MRPC", "data_dir": "/b"}}, "later": 1}
    with pytest.raises(UserError) as caught:
        check_same_search(tmp_path, before, now)
    seed, depths = caught.value.problems
    assert "--seed was 1 in this run and is now 2" in seed
    assert "--new" in seed
    assert "--depths was [2, 3] in this run and is now [2]" in depths


def test_more_trials_and_a_moved_folder_are_the_same_search(tmp_path: Path) -> None:
    before = {"search": {"trials": 8, "data": {"data_dir": "/a"}}, "provenance": {"started": "x"}}
    now = {"search": {"trials": 9, "data": {"data_dir": "/b"}}, "provenance": {"started": "y"}}
    check_same_search(tmp_path, before, now)


def test_another_precision_is_another_search_and_none_recorded_is_auto(tmp_path: Path) -> None:
    def record(**precision: str) -> dict[str, Any]:
        return {"search": {"student_training": {"epochs": 4, **precision}, "teacher_trainings": [{**precision}]}}

    check_same_search(tmp_path, record(), record(precision="auto"))
    for before in (record(), record(precision="auto")):
        with pytest.raises(UserError) as caught:
            check_same_search(tmp_path, before, record(precision="fp32"))
        (problem,) = caught.value.problems
        assert "--precision was 'auto' in this run and is now 'fp32'" in problem
