"""What parameters of a recorded grid are worth."""

from pathlib import Path

import pandas as pd
import pytest
from recordings import write_run

from pkd_tune.benchmark.grid_effects import Effect, Transfer, between_depths, complete_seeds, effects, main, mean_of
from pkd_tune.benchmark.recorded import write_table
from pkd_tune.config import UserError


def scores_of(rows: list[tuple[int, int, str, float, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["depth", "seed", "init", "learning_rate", "score"])


TWO_DEPTHS = scores_of(
    [
        (depth, seed, init, rate, score + bonus)
        for depth, bonus in ((2, 0.0), (3, 5.0))
        for (init, rate), per_seed in {
            ("pretrained", 1e-4): (70.0, 71.0, 72.0),
            ("pretrained", 1e-3): (75.0, 76.0, 77.0),  # its best
            ("teacher", 1e-4): (78.0, 80.0, 79.0),  # its best
            ("teacher", 1e-3): (60.0, 61.0, 62.0),
        }.items()
        for seed, score in enumerate(per_seed, start=1)
    ]
)


def effect_of(scores: pd.DataFrame, depth: int | None, value: str) -> Effect:
    (found,) = [each for each in effects(scores, "init") if (each.depth, each.value) == (depth, value)]
    return found


def test_each_value_has_the_best_of_the_others_and_differences_are_paired_by_seed() -> None:
    first, second = effect_of(TWO_DEPTHS, 2, "pretrained"), effect_of(TWO_DEPTHS, 2, "teacher")
    assert (first.others, first.scores, first.average) == ({"learning_rate": 1e-3}, (75.0, 76.0, 77.0), 73.5)
    assert (second.others, second.scores, second.average) == ({"learning_rate": 1e-4}, (78.0, 80.0, 79.0), 70.0)
    assert (mean_of(second.scores).mean, mean_of(second.scores).sd) == (79.0, 1.0)
    # differences 3, 4, 2: mean 3, sd 1, and 4.3027 is Student's t for 2 degrees of freedom
    difference = second.over(first)
    assert difference.mean == pytest.approx(3.0)
    assert difference.interval == pytest.approx((3 - 4.302653 / 3**0.5, 3 + 4.302653 / 3**0.5))


def test_a_seed_is_scored_with_what_the_others_chose() -> None:
    lucky = scores_of(
        [
            *((2, seed, "teacher", 1e-4, score) for seed, score in ((1, 90.0), (2, 70.0), (3, 71.0))),
            *((2, seed, "teacher", 1e-3, score) for seed, score in ((1, 75.0), (2, 76.0), (3, 77.0))),
        ]
    )
    found = effect_of(lucky, 2, "teacher")
    assert found.others == {"learning_rate": 1e-4}  # 77 on average, 76 the other
    assert found.scores == (75.0, 70.0, 71.0)  # without its own 90, the first seed takes the other


def test_over_all_depths_each_seed_has_its_mean() -> None:
    over_all = effect_of(TWO_DEPTHS, None, "teacher")
    assert over_all.scores == (80.5, 82.5, 81.5)
    assert over_all.average == pytest.approx(72.5)


def test_one_parameter_alone() -> None:
    alone = TWO_DEPTHS[TWO_DEPTHS["learning_rate"] == 1e-4].drop(columns="learning_rate")
    found = effect_of(alone, 3, "teacher")
    assert (found.others, found.scores) == ({}, (83.0, 85.0, 84.0))


def test_depths_may_have_other_values() -> None:
    rows = TWO_DEPTHS[(TWO_DEPTHS["depth"] == 2) | (TWO_DEPTHS["init"] == "teacher")]
    found = effects(rows, "init")
    assert [(each.depth, each.value) for each in found] == [
        (2, "pretrained"),
        (2, "teacher"),
        (3, "teacher"),
        (None, "teacher"),
    ]
    apart = TWO_DEPTHS.assign(learning_rate=TWO_DEPTHS["learning_rate"] * TWO_DEPTHS["depth"])
    assert between_depths(apart) == []


def test_one_seed_has_a_difference_without_an_interval() -> None:
    one = TWO_DEPTHS[TWO_DEPTHS["seed"] == 1]
    difference = effect_of(one, 2, "teacher").over(effect_of(one, 2, "pretrained"))
    assert (difference.mean, difference.sd, difference.interval) == (3.0, None, None)


def test_what_is_best_at_one_depth_scored_at_another() -> None:
    shallow = [(2, 1, "pretrained", 1e-4, 70.0), (2, 1, "teacher", 1e-4, 80.0), (2, 1, "teacher-skip", 1e-4, 75.0)]
    deep = [(4, 1, "pretrained", 1e-4, 71.0), (4, 1, "teacher", 1e-4, 82.0), (4, 1, "teacher-skip", 1e-4, 84.0)]
    there, back = between_depths(scores_of(shallow + deep))
    assert there == Transfer(source=2, target=4, correlation=0.5, transferred=82.0, best=84.0, average=79.0)
    assert back == Transfer(source=4, target=2, correlation=0.5, transferred=75.0, best=80.0, average=75.0)


def test_seeds_that_lack_a_setting_do_not_count() -> None:
    unfinished = TWO_DEPTHS.drop(TWO_DEPTHS.index[TWO_DEPTHS["seed"] == 3][:1])
    assert sorted(complete_seeds(unfinished)["seed"].unique()) == [1, 2]
    with pytest.raises(UserError, match="no seed has all 8 settings"):
        complete_seeds(TWO_DEPTHS.drop(TWO_DEPTHS.index[[0, 4, 8]]))


def test_a_setting_that_no_seed_has_makes_no_difference_of_values() -> None:
    holes = TWO_DEPTHS[~((TWO_DEPTHS["init"] == "teacher") & (TWO_DEPTHS["learning_rate"] == 1e-3))]
    with pytest.raises(UserError, match="2 layers: 3 of the grid's 4 settings are recorded"):
        complete_seeds(holes)


def test_the_program_prints_tables_of_recorded_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_run(tmp_path / str(seed), seed) for seed in (1, 2, 3)]
    write_table(runs, tmp_path / "demo.parquet")
    main([str(tmp_path / "demo.parquet"), "--of", "alpha"])
    printed = capsys.readouterr().out
    assert "4 settings of kd in all, of depth 2; seeds 1, 2 and 3. Differences are to 0.2." in printed
    # of write_run(): 70 + 10 alpha + seed
    assert "| 2 | 0.2 | learning_rate 1e-4 | 74.0 ± 1.0 | 74.0 |  |  |" in printed
    assert "| 2 | 0.7 | learning_rate 1e-4 | 79.0 ± 1.0 | 79.0 | 5.0 | 5.0 to 5.0 |" in printed
    assert "rank correlation" not in printed  # there is one depth
    main([str(tmp_path / "demo.parquet"), "--of", "normalize", "--method", "pkd"])
    printed = capsys.readouterr().out
    assert "8 settings of pkd" in printed
    assert "| 2 | yes | alpha 0.7, learning_rate 1e-4 | 79.0 ± 1.0 | 76.5 | 0.0 | 0.0 to 0.0 |" in printed


def test_a_parameter_that_does_not_vary_is_one_line(tmp_path: Path) -> None:
    write_table([write_run(tmp_path / "run", 1)], tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"^--of init: .*t\.parquet has several values of alpha and learning_rate$"):
        main([str(tmp_path / "t.parquet")])
