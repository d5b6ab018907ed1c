"""A run folder is read whole, whatever its age."""

from pathlib import Path

from recorded_run import write_run

from pkd_tune.reporting.run import is_run, read_run

REPOSITORY = Path(__file__).parents[2]


def test_a_run_is_read_with_controls_first(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "MRPC" / "minilm", trials=4))
    assert [(student["layers"], student["method"]) for student in run.students] == [
        (depth, method) for depth in (2, 3) for method in ("finetuned", "kd", "pkd")
    ]
    assert run.settings == ("alpha", "beta", "temperature", "learning_rate", "strategy", "normalize")
    assert (run.task, run.name, run.demo, run.missing) == ("MRPC", "minilm", False, ())
    assert len(run.of_stage("confirm")) == 18
    assert len(run.evaluations)


def test_the_first_release_s_run_is_read_as_pkd() -> None:
    """The committed run of the first release: no methods, stages or seeds, and no evaluations."""
    run = read_run(REPOSITORY / "results" / "MRPC" / "minilm")
    assert run.task == "MRPC"
    assert set(run.trials["stage"]) == {"search"}
    assert set(run.trials["method"]) == {"pkd"}
    assert all(student["confirmed"] is None and student["trials_ended"] for student in run.students)


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
