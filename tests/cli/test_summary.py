"""The last lines of a search."""

from pathlib import Path

import pytest
from recorded_run import write_run

from pkd_tune.cli.summary import summary_lines
from pkd_tune.config import Method
from pkd_tune.files import read_json

ALL: tuple[Method, ...] = ("pkd", "pkd-skip", "pkd-last", "kd", "finetuned")


def lines(run: Path) -> list[str]:
    return summary_lines(read_json(run / "summary.json"), Path("r"))


def test_verdict_students_and_places(tmp_path: Path) -> None:
    assert lines(write_run(tmp_path / "MRPC" / "minilm")) == [
        "No student is shown to be within 1 point of the teacher. best/3-layer comes",
        "nearest: 79.4 ± 0.3 on 3 fresh seeds, 93% of the teacher's 85.5, 76% of its",
        "size, 1.9× as fast; the difference is −6.1, with a 95 % confidence interval for",
        "6 students together from −8.1 to −4.1.",
        "teacher: 85.5 on dev; students (size and speed as compared with it):",
        "2 layers, fine-tuned (69%, 2.7×): 73.2 on dev, 71.5 ± 0.1 on 3 fresh seeds",
        "2 layers, KD (69%, 2.7×): 74.0 on dev, 74.7 ± 0.4 on 3 fresh seeds",
        "2 layers, PKD (69%, 2.7×): 74.5 on dev, 74.2 ± 0.5 on 3 fresh seeds",
        "3 layers, fine-tuned (76%, 1.9×): 71.4 on dev, 71.7 ± 1.0 on 3 fresh seeds",
        "3 layers, KD (76%, 1.9×): 77.2 on dev, 78.2 ± 0.1 on 3 fresh seeds",
        "3 layers, PKD (76%, 1.9×): 79.2 on dev, 79.4 ± 0.3 on 3 fresh seeds",
        "report:      r/report.md",
        "checkpoints: r/best",
        "TensorBoard: tensorboard --logdir r/ray  # has no login",
    ]


@pytest.mark.parametrize(
    ("depths", "methods", "most"),
    [((1, 2, 3), ALL, 14), ((1, 2, 3, 4, 5), ("pkd", "kd"), 14), (tuple(range(1, 10)), ("pkd",), 17)],
)
def test_they_are_few_and_short_whatever_was_searched(
    tmp_path: Path, depths: tuple[int, ...], methods: tuple[Method, ...], most: int
) -> None:
    run = write_run(tmp_path / "run", teacher_layers=12, depths=depths, methods=methods, trials=18, control_trials=18)
    found = lines(run)
    assert len(found) <= most  # one more says what is left to do
    assert max(map(len, found)) <= 80
    for depth in depths:
        assert any(line.startswith(f"{depth} layer") for line in found)


def test_of_many_students_the_best_confirmed_stand_for_their_depth(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", depths=(2, 3, 4), methods=ALL, trials=18, control_trials=18)
    summary = read_json(run / "summary.json")
    for student in summary["students"]:
        student["confirmed"]["mean"] = 90.0 if student["method"] == "kd" else 80.0
    found = summary_lines(summary, run)
    assert [line.split(" (")[0] for line in found if " layers, " in line] == [
        *("2 layers, KD", "3 layers, KD", "4 layers, KD"),
    ]


def test_a_student_that_learnt_nothing_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", methods=("pkd",), depths=(2,), trials=4, seeds=1)
    summary = read_json(run / "summary.json")
    summary["students"][0]["metrics"] = summary["teacher"]["majority"]
    found = summary_lines(summary, run)
    (line,) = [line for line in found if line.startswith("2 layers, PKD (69%, 2.7×): 60.0 on dev, ")]
    assert line.endswith(" on 1 fresh seed; does not beat the constant baseline")


def test_a_range_that_turned_out_wrong_is_told_before_where_things_are(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm")
    found = summary_lines(read_json(run / "summary.json"), run, ["alpha: search `higher`.", "beta: lower."])
    assert found[-4] == "alpha: search higher. (the report has 1 more note like this)"
    assert found[-3].startswith("report: ")
    assert summary_lines(read_json(run / "summary.json"), run, ["alpha: higher."])[-4] == "alpha: higher."
