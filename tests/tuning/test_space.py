from importlib.resources import files
from pathlib import Path

import optuna
import pytest

from pkd_tune.config import UserError
from pkd_tune.tuning.space import Choice, Float, find_space, load_space, suggest

SHIPPED = sorted(Path(str(files("pkd_tune.search_spaces"))).rglob("*.toml"))
VALID = (Path(str(files("pkd_tune.search_spaces"))) / "default.toml").read_text(encoding="utf-8")


def test_every_shipped_space_loads() -> None:
    assert {path.stem for path in SHIPPED} >= {"default", "demo"}
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
    with pytest.raises(UserError, match=r"--space nowhere: no such file, .*default, demo"):
        find_space("nowhere")
    (tmp_path / "own.toml").write_text(VALID)
    assert find_space(tmp_path / "own.toml") == (tmp_path / "own.toml").resolve()
