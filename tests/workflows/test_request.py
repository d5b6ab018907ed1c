"""What a search makes of its flags: what students start from, and what is refused or understood."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from requests_of import search_request
from tiny import write_bert

from pkd_tune.config import UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.encoders.modeling import load_classifier, save_classifier
from pkd_tune.tuning.space import Choice, Parameter
from pkd_tune.workflows.distill import resolve_distill
from pkd_tune.workflows.finetune import resolve_finetune
from pkd_tune.workflows.options import DistillOptions, FinetuneOptions, SearchOptions, make_options
from pkd_tune.workflows.request import choose_depths, resolve_search, seconds_of, with_trials


def test_a_search_records_that_students_start_from_the_finetuned_teacher(
    tiny_data: Path, tiny_space: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny, given = tiny_data / "models/pretrained/tiny", str(tmp_path / "given")
    save_classifier(load_classifier(tiny, TASKS["MRPC"].labels, seed=0), tiny, tmp_path / "given")
    usual = ["--task", "MRPC", "--gpus", "0", "--data-dir", str(tiny_data), "--space", str(tiny_space)]
    caplog.set_level("INFO")
    usual += ["--out", str(tmp_path / "results")]

    def init(*flags: str) -> Parameter:
        return search_request(*usual, *flags).parameters["init"]

    assert init("--teacher", "tiny") == Choice(("pretrained",))
    assert init("--teacher", given, "--student", "tiny") == Choice(("pretrained",))
    assert caplog.text == ""
    assert init("--teacher", given) == Choice(("teacher",))
    assert "note: the teacher given is fine-tuned already" in caplog.text
    every = 'space.init={choices = ["pretrained", "teacher-skip", "teacher"]}'
    assert init("--teacher", "tiny", "--set", every) == Choice(("pretrained", "teacher-skip", "teacher"))
    assert init("--teacher", given, "--set", every) == Choice(("teacher", "teacher-skip"))
    caplog.clear()
    assert init("--teacher", given, "--student", "tiny", "--set", every) == Choice(("pretrained",))
    assert "note: students of --student start from that model's layers; init is not searched" in caplog.text
    both = 'space.init={choices = ["teacher-skip", "teacher"]}'
    assert init("--teacher", given, "--student", "tiny", "--set", both) == Choice(("pretrained",))
    with pytest.raises(UserError, match=r"--student: by init = teacher in the space, all students start from"):
        init("--teacher", given, "--student", "tiny", "--set", "space.init=teacher")
    with pytest.raises(UserError, match=r"--student .*: is fine-tuned already"):
        init("--teacher", "tiny", "--student", given)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--space", "paper", "--control-trials", "3"), r"--control-trials: the space searches kd and pkd in stages"),
        (("--space", "paper", "--control-trials", "0"), r"--control-trials: the space searches kd and pkd in stages"),
        (("--methods", "pkd", "--control-trials", "4"), r"--control-trials: none of the methods is a control"),
        (("--methods", "kd", "--control-trials", "4", "--trials", "9"), r"--trials: all methods are controls, which"),
        (
            ("--methods", "kd", "finetuned", "--depths", "1", "2", "--trials", "1"),
            r"--trials 1: give at least 2, one for each depth of kd and finetuned",
        ),
        (
            ("--warm-start", "run", "--sampler", "random"),
            r"--warm-start: .*random does not use earlier trials",
        ),
        (
            ("--warm-start", "run", "--space", "paper"),
            r"--warm-start: .*grid does not use earlier trials",
        ),
        (("--tolerance", "-1"), r"--tolerance must be at least 0, but got -1\.0"),
        (("--tolerance", "inf"), r"--tolerance must be finite, but got inf"),
        (("--trial-timeout", "1e300"), r"--trial-timeout must be at most 1000000000, but got 1e\+300"),
        (("--trial-timeout", "nan"), r"--trial-timeout must be above 0, but got nan"),
        (("--trials", "3000000000"), r"--trials must be at most 1000000, but got 3000000000"),
        (("--seeds", "3000000000"), r"--seeds must be at most 1000, but got 3000000000"),
        (("--time-limit", "20000d"), r"--time-limit 20000d: give at most 11574d, or leave it out"),
        (("--time-limit", "9" * 400 + "d"), r"--time-limit 9+d: give at most 11574d"),
        (("--time-limit", "0m"), r"--time-limit 0m: give a time above 0, such as 30m, 2h or 90s"),
        (("--time-limit", "1h30"), r"--time-limit 1h30: give a time above 0"),
    ],
)
def test_a_flag_that_would_have_no_effect_is_refused(
    tiny_data: Path, tmp_path: Path, flags: tuple[str, ...], says: str
) -> None:
    usual = ("--task", "MRPC", "--gpus", "0", "--data-dir", str(tiny_data), "--teacher", "tiny")
    with pytest.raises(UserError, match=says):
        search_request(*usual, "--out", str(tmp_path / "results"), *flags)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("90s", 90.0), ("30m", 1800.0), ("1.5h", 5400.0), ("2d", 172800.0), ("45", 45.0), (0.5, 0.5), (None, None)],
)
def test_a_time_is_given_with_a_unit_or_in_seconds(given: str | float | None, seconds: float | None) -> None:
    assert seconds_of(given) == seconds


def test_the_demo_blames_the_space_for_examples_its_model_cannot_read(tmp_path: Path) -> None:
    flags = ("--task", "MRPC", "--gpus", "0", "--demo", "--data-dir", str(tmp_path), "--out", str(tmp_path / "results"))
    with pytest.raises(UserError) as raised:
        search_request(*flags, "--space", "paper")
    says = "the demo's model reads at most 64 tokens, not 128; give --max-length 64"
    assert raised.value.problems == (f"--space paper: {says}",)
    with pytest.raises(UserError, match="--max-length: the demo's model reads"):
        search_request(*flags, "--max-length", "128")


def test_numbers_may_be_numpys_and_depths_are_not_empty(tiny_data: Path, tmp_path: Path) -> None:
    usual: dict[str, Any] = {"task": "MRPC", "gpus": 0, "data_dir": tiny_data, "teacher": "tiny", "out": tmp_path}
    options = make_options(SearchOptions, {**usual, "seed": np.int64(7), "depths": np.array([1, 3])})
    assert (options.seed, options.depths) == (7, (1, 3))
    assert {type(number) for number in (options.seed, *(options.depths or ()))} == {int}
    assert make_options(SearchOptions, {**usual, "depths": np.int64(3)}).depths == (3,)
    with pytest.raises(UserError, match="--depths: give at least one depth, or leave it out"):
        choose_depths((), 12)


def test_a_search_needs_a_teacher_with_shallower_students() -> None:
    assert choose_depths(None, 2) == (1,)
    with pytest.raises(UserError, match="give one of 2 layers or more"):
        choose_depths(None, 1)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--max-length", "999"), "--max-length 999: max_length in [training] must be a whole number from 8 to 512"),
        (
            ("--space", "paper"),
            "--space paper: the demo's model reads at most 64 tokens, not 128; give --max-length 64",
        ),
        (
            ("--set", "training.max_length=100"),
            "--set training.max_length: the demo's model reads at most 64 tokens, not 100; give --max-length 64",
        ),
        (
            ("--max-length", "65"),
            "--max-length: the demo's model reads at most 64 tokens, not 65; give --max-length 64",
        ),
    ],
)
def test_a_length_limit_blames_what_was_given_and_names_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(says)) as raised:
        search_request("--task", "RTE", "--demo", "--gpus", "0", *flags)
    assert len(raised.value.problems) == 1


def test_validation_is_dev(tiny_data: Path, tmp_path: Path) -> None:
    usual = ["--task", "MRPC", "--gpus", "0", "--data-dir", str(tiny_data), "--teacher", "tiny"]
    usual += ["--out", str(tmp_path / "results")]
    assert search_request(*usual, "--select-on", "validation").config.data.select_on == "dev"
    options = make_options(SearchOptions, {"task": "MRPC", "select_on": "test"})
    with pytest.raises(UserError, match="--select-on test: give dev, holdout or validation"):
        resolve_search(options, "")


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        (SearchOptions, {"sampler": "TPE"}, "--sampler TPE: give tpe, random or grid"),
        (SearchOptions, {"methods": ["kd", "kdd"]}, "--methods kdd: give pkd, pkd-skip, pkd-last, kd or finetuned"),
        (SearchOptions, {"precision": "fp16"}, "--precision fp16: give auto, bf16 or fp32"),
        (SearchOptions, {"log": "tensorboard"}, "--log tensorboard: give wandb or mlflow"),
        (FinetuneOptions, {"precision": "fp16"}, "--precision fp16: give auto, bf16 or fp32"),
        (DistillOptions, {"method": "finetuned", "layers": 1}, "--method finetuned: give kd or pkd"),
        (DistillOptions, {"method": "kd", "layers": 1, "init": "random"}, "--init random: give pretrained, teacher or"),
    ],
)
def test_a_word_that_python_callers_may_not_give_is_named(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, values: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    models = {"model" if kind is FinetuneOptions else "teacher": "tiny"}
    options: Any = make_options(kind, {"task": "MRPC", "data_dir": tiny_data, "gpus": 0, **models, **values})
    resolve: Any = {SearchOptions: resolve_search, FinetuneOptions: resolve_finetune, DistillOptions: resolve_distill}
    with pytest.raises(UserError, match=says) as raised:
        resolve[kind](options, "")
    assert len(raised.value.problems) == 1


def test_fine_tuning_has_trials_for_what_is_left_to_search(tiny_data: Path, tmp_path: Path) -> None:
    """Students of --student have no init to search."""
    usual = ["--task", "MRPC", "--gpus", "0", "--data-dir", str(tiny_data), "--out", str(tmp_path / "results")]
    usual += ["--teacher", "tiny", "--depths", "1", "2", "--set", "training.max_length=64"]
    write_bert(tmp_path / "other")
    assert search_request(*usual).config.finetuned_trials == 12  # init and rate of KD's four parameters
    assert search_request(*usual, "--student", str(tmp_path / "other")).config.finetuned_trials == 8  # one of three


def test_more_trials_are_more_of_controls_too_where_these_are_as_many(tiny_data: Path, tmp_path: Path) -> None:
    usual = ["--task", "MRPC", "--gpus", "0", "--data-dir", str(tiny_data), "--out", str(tmp_path / "results")]
    usual += ["--teacher", "tiny", "--depths", "1", "2", "--set", "training.max_length=64"]
    for flags, controls in (((), (60, 30)), (("--control-trials", "4"), (4, 2))):
        asked = search_request(*usual, *flags, "--trials", "60")
        assert with_trials(search_request(*usual, *flags), 60).config == asked.config
        assert (asked.config.control_trials, asked.config.finetuned_trials) == controls


def test_controls_alone_have_the_trials_that_are_asked_for(tiny_data: Path, tmp_path: Path) -> None:
    usual = ["--task", "MRPC", "--gpus", "0", "--data-dir", str(tiny_data), "--out", str(tmp_path / "results")]
    usual += ["--teacher", "tiny", "--set", "training.max_length=64", "search.control_trials=4", "--trials", "20"]
    assert search_request(*usual, "--methods", "kd").config.control_trials == 20
    assert search_request(*usual, "--methods", "kd", "pkd").config.control_trials == 4


def test_a_grid_has_as_many_trials_as_are_asked_for(tiny_data: Path, tmp_path: Path) -> None:
    usual = ["--task", "MRPC", "--gpus", "0", "--data-dir", str(tiny_data), "--out", str(tmp_path / "results")]
    usual += ["--teacher", "tiny", "--space", "paper", "--sampler", "grid", "--set", "training.max_length=64"]
    assert search_request(*usual).config.trials is None
    assert search_request(*usual, "search.trials=10").config.trials == 10
