"""A run folder is read whole, whatever its age."""

from dataclasses import fields
from pathlib import Path

from recorded_run import write_run

from pkd_tune.config import DataConfig, SearchConfig, SearchStage, TrainingConfig
from pkd_tune.files import read_json, write_json
from pkd_tune.reporting.run import is_run, read_run


def test_a_run_is_read_with_controls_first(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "MRPC" / "minilm", trials=4))
    assert [(student["layers"], student["method"]) for student in run.students] == [
        (depth, method) for depth in (2, 3) for method in ("finetuned", "kd", "pkd")
    ]
    assert run.settings == ("alpha", "beta", "temperature", "learning_rate", "strategy", "normalize")
    assert (run.task, run.name, run.demo, run.missing) == ("MRPC", "minilm", False, ())
    assert len(run.of_stage("confirm")) == 18
    assert len(run.evaluations)


def test_a_recorded_search_is_what_a_search_records(tmp_path: Path) -> None:
    """Else the tests of reports would read records that no search writes."""
    record = read_json(write_run(tmp_path / "MRPC" / "minilm", trials=4) / "run.json")
    search = record["search"]
    assert set(search) <= {field.name for field in fields(SearchConfig)}
    assert set(search["data"]) <= {field.name for field in fields(DataConfig)}
    assert set(search["student_training"]) <= {field.name for field in fields(TrainingConfig)}
    assert {frozenset(stage) for stage in search["stages"]} == {frozenset(field.name for field in fields(SearchStage))}


def test_what_older_runs_lack_is_pkd_s_search(tmp_path: Path) -> None:
    """The first release knew no methods and stages."""
    folder = write_run(tmp_path / "MRPC" / "minilm", methods=("pkd",), seeds=0, trials=4)
    trials = read_run(folder).trials
    trials.drop(columns=["method", "stage", "seed", "started"]).to_csv(folder / "trials.csv", index=False)
    summary = read_json(folder / "summary.json")
    for student in summary["students"]:
        for name in ("method", "trials_ended", "confirmed", "against"):
            del student[name]
    write_json(folder / "summary.json", summary)
    run = read_run(folder)
    assert (set(run.trials["stage"]), set(run.trials["method"])) == ({"search"}, {"pkd"})
    assert [(s["method"], s["trials_ended"], s["confirmed"]) for s in run.students] == [("pkd", 2, None)] * 2


def test_the_epochs_of_older_runs_follow_from_their_evaluations(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "MRPC" / "minilm", trials=4)
    before = read_run(folder).trials
    before.drop(columns="epochs").to_csv(folder / "trials.csv", index=False)
    assert read_run(folder).trials["epochs"].tolist() == before["epochs"].tolist()


def test_what_is_a_run(tmp_path: Path) -> None:
    assert not is_run(tmp_path)
    (tmp_path / "study.log").touch()
    assert not is_run(tmp_path)
    (tmp_path / "trials.csv").touch()
    assert is_run(tmp_path)
