import io
from pathlib import Path

from pkd_tune.tuning.progress import SearchBar
from pkd_tune.tuning.space import Float
from pkd_tune.tuning.study import Studies


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def searched(tmp_path: Path) -> Studies:
    studies = Studies(tmp_path / "study.log", (3, 6, 12), 9, {"alpha": Float(0.2, 0.9, log=False)}, seed=0)
    for score in (81.26, 90.0, 92.0):
        asked = studies.ask()
        assert asked is not None
        studies.report(asked[0], 1, score, {})
        studies.complete(asked[0])
    studies.ask()
    return studies


def test_one_line_says_where_the_search_is(tmp_path: Path) -> None:
    text = SearchBar(searched(tmp_path), Terminal()).text()
    assert text == "3L 81.3, 6L 90.0, 12L 92.0 | 1 running, 0 stopped early, 0 failed"


def test_eighty_columns_show_the_counts_and_every_best_score(tmp_path: Path) -> None:
    stream = Terminal()
    bar = SearchBar(searched(tmp_path), stream)
    bar.setup()
    bar.bar.ncols, bar.bar.dynamic_ncols = 80, None
    bar._draw()
    line = stream.getvalue().split("\r")[-1].rstrip()
    assert len(line) <= 80
    assert line.startswith("search 3/9 ")
    assert "3L 81.3, 6L 90.0, 12L 92.0 | 1 running, 0 stopped early, 0" in line
    bar.close()


def test_a_pipe_gets_a_line_for_each_trial_that_ends(tmp_path: Path) -> None:
    stream = io.StringIO()
    bar = SearchBar(searched(tmp_path), stream)
    bar.setup()
    bar.on_trial_result(0, [], None, None)
    assert stream.getvalue() == ""
    bar.on_trial_complete(0, [], None)
    assert stream.getvalue() == f"search 3/9 trials, {bar.text()}\n"
