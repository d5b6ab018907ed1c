"""Policies replayed on a small table that this package recorded: a tiny model and corpus, 24 settings of PKD and 8 of
KD with two seeds."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from recordings import recording, table, write_run

from pkd_tune.benchmark.policies import POLICIES, scales_of
from pkd_tune.benchmark.recorded import Table, read_tables, together, write_table
from pkd_tune.benchmark.replay import (
    add_to_summary,
    figures,
    finding,
    is_usable,
    main,
    make_parser,
    read_summary,
    replay,
    search_once,
)
from pkd_tune.config import UserError
from pkd_tune.reporting.plots import draw
from pkd_tune.tuning.space import Float

SMALL = Path(__file__).parents[1] / "reference" / "recorded_search.parquet"


@pytest.mark.parametrize(
    ("policy", "slots", "expected"),
    [
        ("random", 1, [(72.92, 70.44, 92.11), (96.32, 74.03, 97.0), (96.66, 96.32, 97.0)]),
        ("staged grid", 4, [(93.46, 75.43, 97.0), (95.23, 93.46, 97.0), (95.23, 93.46, 97.0)]),
    ],
)
def test_a_replay_gives_the_committed_numbers(policy: str, slots: int, expected: list[tuple[float, ...]]) -> None:
    """Median and quartiles with 2, 8 and 26 training runs; neither policy depends on a library's random numbers."""
    (small,) = read_tables(SMALL)
    summary = replay(small, [policy], [slots], 40).set_index("epochs")
    found = [tuple(summary.loc[n * small.budget, ["median", "q25", "q75"]].astype(float).round(2)) for n in (2, 8, 26)]
    assert found == expected


def test_our_search_is_replayed_on_it(tmp_path: Path) -> None:
    (small,) = read_tables(SMALL)
    budgets = np.arange(2, 11) * small.budget
    one, again = (search_once(small, POLICIES["ours"], 4, budgets, 0, tmp_path) for _ in range(2))
    assert one.tolist() == again.tolist()
    assert one[-1] > one[0]


def test_a_choice_is_scored_by_the_best_evaluation_with_the_other_seed(tmp_path: Path) -> None:
    made_up = table(recording(60, 70, other=50, x=1), recording(80, 81, other=90, x=2))
    for seed, expected in ((0, 90.0), (1, 81.0)):
        assert search_once(made_up, POLICIES["random"], 1, np.array([2.0]), seed, tmp_path).tolist() == [expected]


@pytest.mark.parametrize("methods", [("kd",), ("pkd", "kd")])
def test_several_depths_searched_at_once_are_scored_by_their_mean(methods: tuple[str, ...]) -> None:
    rows = [
        recording(60, 70 + depth, other=80 + depth, method=method, depth=depth, learning_rate=rate)
        for depth in (2, 4)
        for method in methods
        for rate in (1e-4, 1e-3)
    ]
    of_depths = [Table(name=f"t-{depth}", recordings=tuple(r for r in rows if r.depth == depth)) for depth in (2, 4)]
    several = together(of_depths)
    assert several.name == "t-2-4"
    summary = replay(several, ["transfer=true"], [2], 2)
    assert summary["epochs"].iloc[0] == 2.0 * len(methods)  # a whole training run of each study
    # the mean of 82 and 84 with the second seed, of 72 and 74 with the first
    assert summary["median"].iloc[-1] == (83 + 73) / 2


def test_policies_for_pkd_need_settings_of_it(tmp_path: Path) -> None:
    write_table([write_run(tmp_path / str(seed), seed) for seed in (1, 2)], tmp_path / "t.parquet")
    frame = pd.read_parquet(tmp_path / "t.parquet")
    attributes = frame.attrs
    frame = frame[frame["method"] == "kd"]
    frame.attrs = attributes
    frame.to_parquet(tmp_path / "t.parquet")
    args = make_parser().parse_args([str(tmp_path / "t.parquet"), "--policies", "ours", "--to", str(tmp_path)])
    with pytest.raises(UserError, match=r"^t-2: ours searches PKD, and no setting of it was recorded$"):
        main(args)


def test_policies_by_equal_budgets_take_training_runs_of_equal_length() -> None:
    mixed = table(recording(60, 70, alpha=0.2), recording(60, 65, 70, 75, alpha=0.7))
    assert is_usable("random", [mixed])
    for name in ("hyperband", "SMAC", "DEHB"):
        with pytest.raises(UserError, match=f"{name} takes training runs of equal length; leave it out of --policies"):
            is_usable(name, [mixed])


def test_a_parameter_that_was_recorded_at_0_is_searched_on_a_linear_scale() -> None:
    with_zero = table(*(recording(60, 70, beta=beta) for beta in (0.0, 1.0, 10.0)))
    scales = scales_of(with_zero)
    assert scales.parameters["beta"] == Float(-0.5, 14.5, log=False)
    assert scales.recording({"beta": 0.2}) == 0


def test_a_table_of_one_seed_cannot_be_replayed(tmp_path: Path) -> None:
    write_table([write_run(tmp_path / "run", 1)], tmp_path / "t.parquet")
    args = make_parser().parse_args([str(tmp_path / "t.parquet"), "--to", str(tmp_path)])
    with pytest.raises(UserError, match=r"t\.parquet: no setting was trained with 2 seeds yet; record another seed$"):
        main(args)


def test_other_policies_search_one_depth(tmp_path: Path) -> None:
    args = make_parser().parse_args([str(SMALL), "--together", "--to", str(tmp_path)])
    with pytest.raises(UserError, match=r"^--together: staged grid, random, .* searches one depth; give --policies"):
        main(args)


def test_the_finding_is_when_a_policy_stays_at_the_staged_grids_last_score() -> None:
    medians = {
        "staged grid": (70, 75, 80, 80),
        "random": (72, 80, 79, 79),
        "ours": (71, 80, 79, 81),
        "x": (60, 85, 85, 85),
    }
    rows = [
        {
            "table": "t-2",
            "slots": 8,
            "policy": policy,
            "epochs": 3.0 * i,
            "median": median,
            "q25": median,
            "q75": median,
        }
        for policy, of_policy in medians.items()
        for i, median in enumerate(of_policy, start=1)
    ]
    lines = finding(pd.DataFrame(rows)).splitlines()[2:]
    assert lines == [
        "| t-2 | 8 | staged grid | 80.00 | 75% of its epochs | 2 of 4 budgets |",
        "| t-2 | 8 | random | 79.00 | never | 0 of 4 budgets |",
        "| t-2 | 8 | ours | 81.00 | 100% of its epochs | 1 of 4 budgets |",
        "| t-2 | 8 | x | 85.00 | 50% of its epochs | 1 of 4 budgets |",
    ]


def rows(policy: str, slots: int, *medians: float, table: str = "t-2") -> pd.DataFrame:
    """Returns what a replay of one policy gives."""
    common = {"table": table, "slots": slots, "policy": policy}
    return pd.DataFrame(
        [common | {"epochs": 3.0 * i, "median": m, "q25": m, "q75": m} for i, m in enumerate(medians, start=1)]
    )


def test_a_picture_begins_where_policies_but_the_staged_grid_end(tmp_path: Path) -> None:
    """Ours is drawn last, on top of the others."""
    medians = {
        "staged grid": [10.0] * 5,
        "ours": [20.0, 60.0, 70.0, 80.0, 90.0],
        "random": [30.0, 50.0, 70.0, 75.0, 85.0],
    }
    rows = [
        {"table": "t", "slots": 1, "policy": name, "epochs": epochs, "median": median, "q25": median, "q75": median}
        for name, found in medians.items()
        for epochs, median in enumerate(found, start=1)
    ]
    (figure,) = figures(pd.DataFrame(rows))
    (panel,) = figure.panels
    assert panel.low_y == 74.5
    assert [series.name for series in panel.series if series.legend] == ["staged grid", "random", "ours"]
    assert draw(figure).axes[0].get_ylim()[0] == 74.5


def test_a_summary_grows_and_what_is_replayed_again_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    for part in (
        rows("WARM_UP_TRIALS=2", 8, 74),
        rows("ours", 8, 70, 71),
        rows("random", 8, 60, 61),
        rows("random", 1, 50),
        rows("random", 1, 40, table="s-2"),
        rows("ours", 8, 72.00049, 73),
    ):
        summary = add_to_summary(path, part)
        assert summary.equals(pd.read_csv(path))
    assert [*summary.itertuples(index=False, name=None)] == [
        (name, slots, policy, epochs, median, median, median)
        for name, slots, policy, epochs, median in [
            ("s-2", 1, "random", 3.0, 40.0),
            ("t-2", 1, "random", 3.0, 50.0),
            ("t-2", 8, "random", 3.0, 60.0),
            ("t-2", 8, "random", 6.0, 61.0),
            ("t-2", 8, "ours", 3.0, 72.0),
            ("t-2", 8, "ours", 6.0, 73.0),
            ("t-2", 8, "WARM_UP_TRIALS=2", 3.0, 74.0),
        ]
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"cannot be read \(No columns to parse"),
        ('table,"slots\n', r"cannot be read \(Error tokenizing"),
        ("table,slots,b\n1,2,3\n", r"is not a summary of replays: it has no column policy, epochs, median, q25, q75"),
    ],
)
def test_a_file_that_is_no_summary_is_named_and_kept(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "summary.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"summary\.csv {message}.*; move it, or choose another --to"):
        add_to_summary(path, rows("ours", 8, 70))
    assert path.read_text() == text


def test_a_folder_in_place_of_the_summary_is_named(tmp_path: Path) -> None:
    (tmp_path / "summary.csv").mkdir()
    with pytest.raises(UserError, match=r"summary\.csv cannot be read \(.*Is a directory"):
        read_summary(tmp_path / "summary.csv")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pkd_tune.benchmark.replay", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_the_program_writes_summary_finding_and_plots(tmp_path: Path) -> None:
    small = ["--slots", "2", "--slots", "8", "--repeats", "6", "--processes", "2", "--to", str(tmp_path)]
    done = run(str(SMALL), "--policies", "staged grid", "random", "sampler=random WARM_UP_TRIALS=2", *small)
    assert done.returncode == 0, done.stderr
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert [*summary] == ["table", "slots", "policy", "epochs", "median", "q25", "q75"]
    assert {*summary["policy"]} == {"staged grid", "random", "sampler=random WARM_UP_TRIALS=2"}
    assert {*summary["slots"]} == {2, 8}
    assert (tmp_path / "plots" / "recorded_search-2.svg").exists()
    assert (tmp_path / "finding.md").read_text() + "\n" == done.stdout


@pytest.mark.slow
def test_mistakes_are_one_line(tmp_path: Path) -> None:
    unknown = run(str(SMALL), "--policies", "best")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert "--policies 'best': best is neither a policy nor NAME=VALUE" in unknown.stderr
    assert "policies are staged grid, random" in unknown.stderr
    assert run(str(SMALL), "--slots", "0").stderr.endswith("error: --slots must be at least 1\n")
