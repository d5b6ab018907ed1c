import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pkd_tune.config import UserError
from pkd_tune.export import make_parser
from pkd_tune.files import write_json
from pkd_tune.workflows.export import resolve_export
from pkd_tune.workflows.options import ExportOptions, make_options
from pkd_tune.workflows.run_folder import begin_run_folder, check_same_search, choose_run_folder, relative_path

RUN = "results/MRPC/tiny"


def test_the_latest_run_is_continued_unless_a_new_one_is_asked_for(tmp_path: Path) -> None:
    def choose(new: bool) -> str:
        return choose_run_folder(tmp_path / "MRPC", "minilm", new=new).name

    assert choose(new=False) == choose(new=True) == "minilm"
    for name in ("minilm", "minilm-2", "minilm-10", "minilm-large", "other-99"):
        (tmp_path / "MRPC" / name).mkdir(parents=True)
    assert choose(new=False) == "minilm-10"
    assert choose(new=True) == "minilm-11"


def test_a_run_whose_own_name_ends_in_a_number_is_no_run_of_a_shorter_name(tmp_path: Path) -> None:
    def choose(name: str, new: bool) -> str:
        return choose_run_folder(tmp_path, name, new=new).name

    for folder, name in (("exp", "exp"), ("exp-2", "exp"), ("exp-3", "exp-3"), ("exp-2024", "exp-2024")):
        (tmp_path / folder).mkdir()
        write_json(tmp_path / folder / "run.json", {"name": name})
    assert choose("exp", new=False) == "exp-2"
    assert choose("exp", new=True) == "exp-4"  # 3 is taken by another
    assert choose("exp-2", new=False) == "exp-2"  # the second run of exp
    assert choose("exp-2024", new=False) == "exp-2024"
    assert choose("exp-2024", new=True) == "exp-2024-2"
    (tmp_path / "exp-5").mkdir()  # begun a moment ago
    assert choose("exp", new=False) == "exp-5"


@pytest.mark.parametrize("content", [b"{}", b"\xff", b'{"id": "x"}'])
def test_a_damaged_record_is_named_before_anything_is_done(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=r"tiny/run\.json is damaged .*; restore it, or start another run with --new"):
        begin_run_folder(tmp_path, "tiny", {}, new=False)


def test_a_journal_that_is_gone_or_empty_is_named_once_trials_have_begun(tiny_run: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "tiny"
    run_dir.mkdir()
    shutil.copy(tiny_run / "run.json", run_dir)
    assert begin_run_folder(tmp_path, "tiny", {}, new=False) == run_dir  # it was interrupted before its first trial
    (run_dir / "run.log").touch()
    for state in ("gone", "empty"):
        with pytest.raises(UserError, match=rf"study\.log is {state}, which holds the run's trials; restore it"):
            begin_run_folder(tmp_path, "tiny", {}, new=False)
        (run_dir / "study.log").touch()


def test_differing_settings_are_all_named(tmp_path: Path) -> None:
    before = {"search": {"trials": 8, "seed": 1, "depths": [2, 3], "data": {"task": "MRPC", "data_dir": "/a"}}}
    now = {"search": {"trials": 9, "seed": 2, "depths": [2], "data": {"task": "MRPC", "data_dir": "/b"}}, "later": 1}
    with pytest.raises(UserError) as caught:
        check_same_search(tmp_path, before, now)
    seed, depths = caught.value.problems
    assert "--seed was 1 in this run and is now 2" in seed
    assert "--new" in seed
    assert "--depths was [2, 3] in this run and is now [2]" in depths


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"stages": [{"method": "pkd", "keep": []}]}, "--methods was 'kd' in this run and is gone now"),
        ({"stages": [{"method": m, "keep": []} for m in ("pkd", "kd", "finetuned")]}, "--methods was not there in"),
        ({"alpha": {"values": [0.2, 0.5]}}, "space.alpha.low was 0.2 in this run and is gone now"),
        ({"alpha": {"values": [0.2, 0.5]}}, "space.alpha.values was not there in this run and is now [0.2, 0.5]"),
        ({"batch_size": {"values": [16, 32]}}, "space.batch_size.values was not there"),
        ({"rates": [1e-5, 2e-5]}, "search.teacher_trainings.2.learning_rate was not there"),
    ],
)
def test_what_is_there_no_more_or_was_not_there_differs_too(tmp_path: Path, now: dict[str, Any], said: str) -> None:
    """Continued all the same, a run without its controls would lose them, and Optuna refuses another kind of range."""
    both = [{"method": "pkd", "keep": []}, {"method": "kd", "keep": []}]

    def record(
        stages: list[dict[str, Any]] = both, rates: Sequence[float] = (1e-5,), **space: dict[str, Any]
    ) -> dict[str, Any]:
        teachers = [{"learning_rate": rate, "seed": 1} for rate in rates]
        return {
            "search": {"stages": stages, "teacher_trainings": teachers, "trials": 8},
            "space": {"alpha": {"low": 0.2, "high": 0.9}, **space},
        }

    check_same_search(tmp_path, record(), record())
    with pytest.raises(UserError) as caught:
        check_same_search(tmp_path, record(), record(**now))
    assert any(said in problem for problem in caught.value.problems), caught.value.problems


def test_more_trials_and_a_moved_folder_are_the_same_search(tmp_path: Path) -> None:
    before = {"search": {"trials": 8, "data": {"data_dir": "/a"}}, "provenance": {"started": "x"}}
    now = {"search": {"trials": 9, "data": {"data_dir": "/b"}}, "provenance": {"started": "y"}}
    check_same_search(tmp_path, before, now)


def test_a_run_whose_place_is_taken_by_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name in ("file", "link"):
        with pytest.raises(UserError, match=f"{name} is no folder; remove it, or choose another --name or --out"):
            begin_run_folder(tmp_path, name, {}, new=False)


def test_another_model_of_the_student_is_another_search(tmp_path: Path) -> None:
    """Unless the run was begun before its hash was recorded."""

    def record(student_dir: str, **content: str) -> dict[str, Any]:
        data = {"teacher_dir": "/teacher", "student_dir": student_dir}
        return {"search": {"data": data}, "content": {"teacher": "t", **content}}

    first, second = (record(f"/{each}", student=each) for each in "ab")
    check_same_search(tmp_path, first, first)
    check_same_search(tmp_path, record("/b"), second)
    with pytest.raises(UserError, match="the content of --student was 'a' in this run and is now 'b'"):
        check_same_search(tmp_path, first, second)
    none = record("/teacher")
    with pytest.raises(UserError, match="the content of --student was not there in this run and is now 'b'"):
        check_same_search(tmp_path, none, second)
    with pytest.raises(UserError, match="the content of --student was 'b' in this run and is gone now"):
        check_same_search(tmp_path, second, none)


def test_another_precision_is_another_search(tmp_path: Path) -> None:
    def record(precision: str) -> dict[str, Any]:
        training = {"epochs": 4, "precision": precision}
        return {"search": {"student_training": training, "teacher_trainings": [training]}}

    check_same_search(tmp_path, record("auto"), record("auto"))
    with pytest.raises(UserError) as caught:
        check_same_search(tmp_path, record("auto"), record("fp32"))
    (problem,) = caught.value.problems
    assert "--precision was 'auto' in this run and is now 'fp32'" in problem


def _moved(home: Path) -> None:
    shutil.move(home / "results", home / "elsewhere")


def _kept_far_from_its_data(home: Path) -> None:
    """What --out /scratch leaves: the way leads out of all folders that run and data share."""
    far = home / "scratch" / "a" / "b"
    far.parent.mkdir(parents=True)
    shutil.move(home / "results" / "MRPC" / "tiny", far)
    record = json.loads((far / "run.json").read_text())
    shutil.move(home / "data", home / "corpora")  # where only the way leads
    record["data_from_here"] = relative_path(far, home / "corpora")
    (far / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "run"),
    [
        (None, RUN),
        (_moved, "elsewhere/MRPC/tiny"),
        (_kept_far_from_its_data, "scratch/a/b"),
    ],
)
def test_the_data_is_found_from_any_folder(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None] | None, run: str
) -> None:
    home = tmp_path / "home"
    shutil.copytree(tiny_run.parents[2], home)
    if change is not None:
        change(home)
    (tmp_path / "other" / "data" / "data_raw").mkdir(parents=True)  # another project's data, which is not meant
    monkeypatch.chdir(tmp_path / "other")
    flags = [str(home / run), "--layers", "1", "--to", "new"]
    found = resolve_export(make_options(ExportOptions, vars(make_parser().parse_args(flags)))).data_dir
    assert found.parent == home
    assert (found / "data_raw" / "MRPC" / "dev.tsv").is_file()
