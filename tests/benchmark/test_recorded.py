"""Tables made from the journals of two searches."""

from pathlib import Path

import pandas as pd
import pytest
from recordings import GRID, recording, table, write_run

from pkd_tune.benchmark.recorded import nearest, read_scores, read_tables, write_table
from pkd_tune.config import UserError
from pkd_tune.tuning.space import Choice


def test_a_table_has_the_trainings_of_two_seeds(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(seed), seed) for seed in (1, 2)]
    assert write_table(runs, tmp_path / "demo.parquet") == "demo-2: 8 settings of pkd, 4 settings of kd"
    (read,) = read_tables(tmp_path / "demo.parquet")
    assert read.values("pkd") == {"alpha": (0.2, 0.7), "learning_rate": (1e-4, 1e-3), "normalize": (False, True)}
    assert read.values("kd") == {"alpha": (0.2, 0.7), "learning_rate": (1e-4, 1e-3)}  # temperature does not vary
    assert (read.missing("pkd"), read.missing("kd"), read.budget) == (0, 0, 1.0)
    for one in read.recordings:
        best = 70 + 10 * one.settings["alpha"]
        assert [training.scores for training in one.trainings] == [(70, best + 1), (70, best + 2)]
        assert one.trainings[0].epochs == (0.5, 1.0)
        assert one.trainings[0].degenerate == (False, False)


def test_what_one_run_lacks_is_left_out_and_said(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a", 1), write_run(tmp_path / "b", 2, trials=11)]
    line = write_table(runs, tmp_path / "part.parquet")
    assert line.endswith("; 1 of the grid are missing")
    (read,) = read_tables(tmp_path / "part.parquet")
    assert len(read.recordings) == 11


def test_runs_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", 1, trials=2)
    other = write_run(tmp_path / "b", 2, trials=2, student_training={"seed": 2, "epochs": 3})
    with pytest.raises(UserError, match="give runs of one task and one training"):
        write_table([one, other], tmp_path / "t.parquet")
    assert write_table([one], tmp_path / "t.parquet").endswith("no setting was trained with 2 seeds yet")
    assert read_tables(tmp_path / "t.parquet") == []
    with pytest.raises(UserError, match="give runs of one task and one training"):
        write_table([tmp_path / "t.parquet", other], tmp_path / "t.parquet")
    with pytest.raises(UserError, match="not a run folder"):
        write_table([tmp_path], tmp_path / "t.parquet")


def test_a_table_grows_by_other_parts_of_its_grid(tmp_path: Path) -> None:
    """A search of one learning rate after the other: what is fixed in each of them varies in the table."""
    table = tmp_path / "demo.parquet"
    for rate in (1e-4, 1e-3):
        part = {**GRID, "learning_rate": Choice((rate,))}
        runs = [write_run(tmp_path / f"{rate}-{seed}", seed, 6, part) for seed in (1, 2)]
        write_table([*([table] if table.exists() else []), *runs], table)
    whole = [write_run(tmp_path / str(seed), seed) for seed in (1, 2)]
    write_table(whole, tmp_path / "whole" / "demo.parquet")
    assert read_tables(table) == read_tables(tmp_path / "whole" / "demo.parquet")


def test_what_a_method_does_not_use_is_no_setting_of_it(tmp_path: Path) -> None:
    """KD has no beta, also where each part of the grid has another one for PKD."""
    runs = [
        write_run(tmp_path / f"{beta}-{seed}", seed, grid={**GRID, "beta": Choice((beta,))})
        for beta in (1.0, 10.0)
        for seed in (1, 2)
    ]
    write_table([*runs, runs[0]], tmp_path / "demo.parquet")  # a run that is named twice counts once
    (read,) = read_tables(tmp_path / "demo.parquet")
    assert (len(read.of("pkd")), len(read.of("kd"))) == (16, 4)
    assert (read.values("pkd")["beta"], "beta" in read.values("kd")) == ((1.0, 10.0), False)
    assert {len(training.scores) for recording in read.recordings for training in recording.trainings} == {2}


def test_another_file_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(UserError, match="not a recorded table"):
        read_tables(tmp_path / "a.parquet")
    pd.DataFrame({"depth": [1]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(UserError, match="it lacks degenerate, epoch"):
        read_tables(tmp_path / "b.parquet")


def test_the_nearest_recording_is_counted_in_recorded_values() -> None:
    rates = (1e-5, 1e-4, 1e-3)
    part = table(*(recording(1, x=rate, kind=kind) for rate in rates for kind in "ab" if (rate, kind) != (1e-5, "a")))
    assert part.recordings[nearest(part, "pkd", {"x": 1e-4, "kind": "a"})].settings == {"x": 1e-4, "kind": "a"}
    assert part.recordings[nearest(part, "pkd", {"x": 1e-5, "kind": "a"})].settings["x"] in (1e-5, 1e-4)
    assert part.recordings[nearest(part, "pkd", {"kind": "b", "other": 3})].settings == {"x": 1e-5, "kind": "b"}


def test_all_settings_are_replayed_with_the_same_two_seeds(tmp_path: Path) -> None:
    """The first seed lacks a setting: the other two are read, for all settings."""
    runs = [write_run(tmp_path / str(seed), seed, trials=11 if seed == 1 else 12) for seed in (1, 2, 3)]
    write_table(runs, tmp_path / "three.parquet")
    (read,) = read_tables(tmp_path / "three.parquet")
    assert len(read.recordings) == 12
    for one in read.recordings:
        best = 70 + 10 * one.settings["alpha"]
        assert [training.best for training in one.trainings] == [best + 2, best + 3]


def test_scores_of_settings_that_lack_a_parameter_are_not_compared(tmp_path: Path) -> None:
    write_table([write_run(tmp_path / "run", 1)], tmp_path / "t.parquet")
    frame = pd.read_parquet(tmp_path / "t.parquet")
    assert sorted(read_scores(tmp_path / "t.parquet", "kd")["score"].unique()) == [73.0, 78.0]
    frame.loc[(frame["method"] == "kd") & (frame["alpha"] == 0.2), "learning_rate"] = None
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="some settings have no learning_rate; record them as a table of their own"):
        read_scores(tmp_path / "t.parquet", "kd")
