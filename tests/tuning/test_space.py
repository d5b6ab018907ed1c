from importlib.resources import files
from pathlib import Path

import optuna
import pytest

from pkd_tune.config import UserError
from pkd_tune.tuning.space import (
    Choice,
    Condition,
    Float,
    Int,
    Parameters,
    all_settings,
    contains,
    description,
    fix,
    for_method,
    settings_of,
    suggest,
)
from pkd_tune.tuning.space_file import find_space, load_space

SHIPPED = sorted(Path(str(files("pkd_tune.search_spaces"))).rglob("*.toml"))
VALID = (Path(str(files("pkd_tune.search_spaces"))) / "default.toml").read_text(encoding="utf-8")


def test_every_shipped_space_loads() -> None:
    assert {path.stem for path in SHIPPED} >= {"default", "demo", "paper"}
    for path in SHIPPED:
        space = load_space(find_space(path.stem))
        assert set(space.parameters) == {"alpha", "beta", "temperature", "learning_rate", "strategy", "normalize"}


def test_values_arrive_typed(tiny_space: Path) -> None:
    space = load_space(tiny_space)
    assert space.parameters["alpha"] == Float(0.2, 0.9, log=False)
    assert space.parameters["beta"] == Float(1.0, 100.0, log=True)
    assert space.parameters["temperature"] == Choice((10,))
    assert space.parameters["strategy"] == Choice(("skip", "last"))
    assert (space.trials, space.max_length) == (4, 32)
    assert [(t.epochs, t.learning_rate, t.batch_size) for t in space.teacher] == [(6, 3e-3, 16)]
    assert (space.training.epochs, space.training.batch_size) == (2, 16)


def test_a_trial_chooses_inside_the_space(tiny_space: Path) -> None:
    parameters = load_space(tiny_space).parameters
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        chosen = suggest(study.ask(), parameters)
        assert chosen.keys() == parameters.keys()
        assert 0.2 <= chosen["alpha"] <= 0.9
        assert chosen["temperature"] == 10
        assert chosen["strategy"] in ("skip", "last")
        assert chosen["normalize"] in (True, False)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("alpha = {", "alhpa = {", r"unknown key 'alhpa' in \[space\]"),
        ("alpha = {", "alhpa = {", r"alpha is missing in \[space\]"),
        (
            "low = 0.2, high = 0.9",
            "low = 0.9, high = 0.2",
            r"low of alpha .* must be below high, but 0.9 is not below 0.2",
        ),
        (
            "low = 0.2, high = 0.9",
            "low = 0.2, high = 1.5",
            r"high of alpha .* must be a number in \[0, 1\], but is 1.5",
        ),
        ("low = 0.2, high = 0.9", "low = 0.2", r"high of alpha .* but is None"),
        ("low = 0.2, high = 0.9", 'low = "0.2", high = 0.9', r"low of alpha .* but is '0.2'"),
        ("low = 0.2, high = 0.9", "low = 0.2, high = 0.9, step = 1", "unknown key 'step' of alpha"),
        ("low = 0.2, high = 0.9", "choices = []", "choices of alpha .* at least one value"),
        ("low = 1.0, high = 1000.0", "low = 0, high = 1000.0", "low of beta .* above 0 on a logarithmic scale"),
        ('"skip", "last"', '"skip", "first"', 'strategy .* must be "skip" or "last", but one choice is \'first\''),
        ("[true, false]", "[1, 0]", "normalize .* must be true or false, but one choice is 1"),
        ("trials = 24", "trials = 0", r"trials in \[search\] must be a whole number of at least 1, but is 0"),
        ("batch_size = 32", "batch_size = 32.0", r"batch_size in \[training\] .* but is 32.0"),
        ("max_length = 128", "max_length = 1000", "max_length .* from 8 to 512, but is 1000"),
        ("[2e-5, 5e-5, 1e-4]", "[2e-5, 0]", r"learning_rates in \[teacher\] must be a list of numbers above 0"),
        ("[search]", "[serch]", "unknown table or key 'serch'"),
        ("epochs = 4", "epoch = 4", r"unknown key 'epoch' in \[t"),
        ("[space]", "[space", "not a TOML file"),
        ("trials = 24", "", r'trials is missing in \[search\]; only with sampler = "grid"'),
        ("control_trials = 8", "control_trials = -1", "control_trials .* of at least 0, but is -1"),
        ('sampler = "tpe"', 'sampler = "best"', 'sampler in .* "tpe", "random" or "grid", but is \'best\''),
        ('sampler = "tpe"', 'stages = [{ method = "pdk" }]', "a stage in .* with a method of pkd, "),
        ('sampler = "tpe"', 'stages = [{ method = "kd", keep = ["alpha"] }]', "the first stage .* no stage before it"),
        ("low = 0.2, high = 0.9", "low = 0.2, high = 0.9, int = true", "low and high of alpha .* whole numbers"),
        ("low = 0.2, high = 0.9", "low = 0.2, high = 0.9, otherwise = 0.5", "when of alpha .* must be like"),
        (
            "low = 0.2, high = 0.9",
            'low = 0.2, high = 0.9, when = { strategy = "skip" }, otherwise = 7',
            r"otherwise of alpha .* must be a number in \[0, 1\], but is 7",
        ),
        (
            "low = 0.2, high = 0.9",
            'low = 0.2, high = 0.9, when = { strategy = "first" }, otherwise = 0.5',
            "when of alpha .* asks for strategy = 'first', but only a value among the choices",
        ),
        ("[space]", "[space]\nbatch_size = 0", "batch_size .* whole number of at least 1, but one choice is 0"),
    ],
)
def test_mistakes_name_file_key_and_rule(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    assert old in VALID
    path.write_text(VALID.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        load_space(path)
    assert all(problem.startswith(str(path)) and "\n" not in problem for problem in caught.value.problems)


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(VALID.replace("trials = 24", "trials = -1").replace("high = 0.9", "high = 9"), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_space(path)
    assert len(caught.value.problems) == 2


def test_an_unknown_space_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--space nowhere: no such file, .*default, demo, paper"):
        find_space("nowhere")
    (tmp_path / "own.toml").write_text(VALID)
    assert find_space(tmp_path / "own.toml") == (tmp_path / "own.toml").resolve()


BOTH: Parameters = {
    "alpha": Choice((0.2, 0.5)),
    "beta": Choice((10, 100), Condition((("strategy", "skip"),), 1)),
    "strategy": Choice(("skip", "last")),
}


def test_a_conditional_parameter_exists_for_some_values_of_another() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(40):
        trial = study.ask()
        settings = suggest(trial, BOTH)
        assert list(settings) == list(BOTH)
        assert (settings["beta"] == 1) == (settings["strategy"] == "last")
        assert ("beta" in trial.params) == (settings["strategy"] == "skip")
        assert settings_of(BOTH, trial.params) == settings
        assert contains(BOTH, settings)
        seen.add(tuple(settings.values()))
    everything = all_settings(BOTH)
    assert everything is not None
    assert seen == {tuple(settings.values()) for settings in everything}
    assert len(everything) == 6  # 2 x (2 + 1)
    assert not contains(BOTH, {"alpha": 0.2, "beta": 10, "strategy": "last"})
    assert not contains(BOTH, {"alpha": 0.2, "strategy": "last"})


def test_fixing_a_value_decides_conditions_on_it() -> None:
    assert fix(BOTH, {"strategy": "last"})["beta"] == Choice((1,))
    assert all_settings(fix(BOTH, {"strategy": "skip", "alpha": 0.2})) == [
        {"alpha": 0.2, "beta": 10, "strategy": "skip"},
        {"alpha": 0.2, "beta": 100, "strategy": "skip"},
    ]
    assert for_method(BOTH, "pkd-last")["strategy"] == Choice(("last",))


def test_ranges_of_whole_numbers_are_finite_and_of_real_ones_are_not() -> None:
    sizes: Parameters = {"batch_size": Int(16, 18, log=False)}
    assert all_settings(sizes) == [{"batch_size": size} for size in (16, 17, 18)]
    assert all_settings({**sizes, "alpha": Float(0.1, 0.2, log=False)}) is None
    assert all_settings({"batch_size": Int(1, 10**6, log=True)}) is None
    assert description(sizes["batch_size"]) == {"low": 16, "high": 18, "log": False, "int": True}
    assert description(BOTH["beta"]) == {"values": [10, 100], "when": {"strategy": "skip"}, "otherwise": 1}


def test_a_space_says_more_than_the_six(tmp_path: Path) -> None:
    text = VALID.replace("[space]", "[space]\nbatch_size = { low = 8, high = 64, log = true }\nweight_decay = 0.1")
    text = text.replace("[true, false] }", '[true, false], when = { strategy = "skip" }, otherwise = true }')
    (tmp_path / "mine.toml").write_text(text)
    space = load_space(tmp_path / "mine.toml")
    assert space.parameters["batch_size"] == Int(8, 64, log=True)
    assert space.parameters["weight_decay"] == Choice((0.1,))
    assert space.parameters["normalize"] == Choice((True, False), Condition((("strategy", "skip"),), True))
    assert (space.trials, space.control_trials, space.seeds, space.sampler) == (24, 8, 3, "tpe")
    assert space.early_stopping
    paper = load_space(find_space("paper"))
    assert [(stage.method, stage.keep) for stage in paper.stages] == [("kd", ()), ("pkd", ("temperature", "alpha"))]
    assert not paper.early_stopping
