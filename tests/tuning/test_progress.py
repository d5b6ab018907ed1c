import io
from pathlib import Path

import pytest
from studies import seen

from pkd_tune.tuning.plan import StudyKey, StudyPlan
from pkd_tune.tuning.progress import SearchProgress
from pkd_tune.tuning.space import Choice, Float, Parameters
from pkd_tune.tuning.studies import Studies


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def searched(tmp_path: Path, seeds: tuple[int, ...] = ()) -> Studies:
    parameters: Parameters = {"alpha": Float(0.2, 0.9, log=False), "epochs": Choice((2,))}
    plans = [StudyPlan(study_key=StudyKey(depth, "pkd"), quota=3, parameters=parameters) for depth in (3, 6, 12)]
    studies = Studies(tmp_path / "study.log", plans, seeds=seeds)
    for score in (81.26, 90.0, 92.0):
        end(studies, score)
    return studies


def end(studies: Studies, score: float) -> None:
    asked = studies.ask()
    assert asked is not None
    studies.report(asked[0], 1, score, seen(2.0, score))
    studies.complete(asked[0])


def test_one_line_says_where_the_search_is(tmp_path: Path) -> None:
    studies = searched(tmp_path)
    studies.ask()
    text = SearchProgress(studies, Terminal()).text()
    assert text == "search 3/9 | 3L 81.3 6L 90.0 12L 92.0 | 1 running"


def test_pace_and_time_left_are_those_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = searched(tmp_path)
    bar = SearchProgress(studies, Terminal())
    end(studies, 80.0)  # two epochs
    clock = bar.began + 4.0
    monkeypatch.setattr("pkd_tune.tuning.progress.time.monotonic", lambda: clock)
    # five trials of two epochs are left, at half an epoch a second
    assert bar.text() == "search 4/9 0.5 epochs/s 00:20 left | 3L 81.3 6L 90.0 12L 92.0"


def test_the_time_left_counts_the_epochs_of_each_trial(tmp_path: Path) -> None:
    parameters: Parameters = {"alpha": Float(0.2, 0.9, log=False), "epochs": Choice((4, 8))}
    first = ({"alpha": 0.5, "epochs": 8}, {"alpha": 0.5, "epochs": 4})
    plans = [StudyPlan(study_key=StudyKey(3, "pkd"), quota=4, parameters=parameters, first=first)]
    studies = Studies(tmp_path / "study.log", plans, seeds=(7, 8))
    assert studies.epochs_left() == (4 + 2) * 6  # settings are not chosen yet
    end(studies, 80.0)
    running = studies.ask()
    assert running is not None
    studies.report(running[0], 1, 70.0, {"epoch": 0.5})
    assert studies.epochs_left() == 3.5 + 2 * 6 + 2 * 8  # confirmations have the epochs of the best trial


def test_the_stage_is_named(tmp_path: Path) -> None:
    studies = searched(tmp_path, seeds=(1,))
    assert SearchProgress(studies, Terminal()).text().startswith("search 3/12 ")
    for _ in range(6):
        end(studies, 70.0)
    assert SearchProgress(studies, Terminal()).text().startswith("confirm 9/12 ")


def test_eighty_columns_show_the_failures_and_every_best_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    studies = searched(tmp_path)
    for _ in range(2):
        asked = studies.ask()
        assert asked is not None
        studies.fail(asked[0], "out of memory")
    studies.ask()
    bar = SearchProgress(studies, stream)
    bar.began, bar.epochs_before = bar.began - 2400, -300.0  # an eighth of an epoch a second
    bar.setup()
    bar.bar.ncols, bar.bar.dynamic_ncols = 80, None
    bar._draw()
    line = stream.getvalue().split("\r")[-1].rstrip()
    assert len(line) <= 80
    assert line.startswith("search 5/9 ")
    assert line.endswith(" left | 3L 81.3 6L 90.0 12L 92.0 | 2 failed")  # and nothing cut in two
    assert bar.text().endswith(" | 2 failed, 1 running")
    bar.close()


def test_a_pipe_gets_a_line_for_each_trial_that_ends(tmp_path: Path) -> None:
    stream = io.StringIO()
    bar = SearchProgress(searched(tmp_path), stream)
    bar.setup()
    bar.on_trial_result(0, [], None, None)
    assert stream.getvalue() == ""
    bar.on_trial_complete(0, [], None)
    assert stream.getvalue() == f"{bar.text()}\n"
