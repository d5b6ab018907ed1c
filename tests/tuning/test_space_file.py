"""Space files: what they mean, how they are laid over each other, and what is said of mistakes."""

from pathlib import Path

import optuna
import pytest

from pkd_tune.config import SearchStage, UserError
from pkd_tune.tuning.space import Choice, Condition, Float, Int, Parameter, epoch_shares, inits, suggest
from pkd_tune.tuning.space_file import Space, find_space, load_space, shipped_spaces, space_text

DEFAULT = load_space(find_space("default"))


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_space(path, overrides)
    assert all("\n" not in problem and len(problem) < 400 for problem in caught.value.problems)
    return list(caught.value.problems)


def test_values_arrive_typed(tiny_space: Path) -> None:
    space = load_space(tiny_space)
    assert space.parameters["alpha"] == Float(0.2, 0.9, log=False)
    assert space.parameters["beta"] == Float(1.0, 100.0, log=True)
    assert space.parameters["temperature"] == Choice((10,))
    assert space.parameters["strategy"] == Choice(("skip", "last"))
    assert (space.trials, space.control_trials, space.max_length) == (4, 0, 32)
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


def test_the_shipped_spaces_are_listed_and_their_texts_are_files_to_start_from(tmp_path: Path) -> None:
    assert shipped_spaces() == ("default", "demo", "paper")
    for name in shipped_spaces():
        assert space_text(name).startswith("# ")
        assert load_space(own(tmp_path, space_text(name))) == load_space(find_space(name))
    with pytest.raises(UserError, match="no shipped space is called papre; there are default, demo, paper"):
        space_text("papre")


def test_the_papers_space_is_its_grid_in_two_stages() -> None:
    paper = load_space(find_space("paper"))
    assert paper.stages == (SearchStage(method="kd"), SearchStage(method="pkd", keep=("temperature", "alpha")))
    assert (paper.trials, paper.control_trials, paper.seeds, paper.sampler) == (None, 0, 3, "grid")
    assert not paper.early_stopping
    assert paper.parameters == {
        "alpha": Choice((0.2, 0.5, 0.7)),
        "beta": Choice((10, 100, 500, 1000)),
        "temperature": Choice((5, 10, 20)),
        "learning_rate": Choice((1e-5, 2e-5, 5e-5)),
        "strategy": Choice(("skip",)),
        "normalize": Choice((True, False)),
        "init": Choice(("pretrained",)),
        "epochs": Choice((4,)),
    }
    assert [(training.epochs, training.learning_rate) for training in paper.teacher] == [(4, 2e-5)]
    assert (paper.training.epochs, paper.training.evaluations_per_epoch, paper.max_length) == (4, 1, 128)


def test_a_file_is_laid_over_the_default_and_a_parameter_is_replaced_whole(tmp_path: Path) -> None:
    assert load_space(own(tmp_path, "")) == DEFAULT
    space = load_space(own(tmp_path, "[training]\nepochs = 3\n[space]\nbeta = { low = 5, high = 50 }"))
    assert space.training.epochs == 3
    assert space.teacher == DEFAULT.teacher
    assert space.parameters == {
        **DEFAULT.parameters,
        "beta": Float(5.0, 50.0, log=False),
        "epochs": Choice((3,)),
    }


def test_a_file_may_have_more_parameters_and_conditions(tmp_path: Path) -> None:
    text = """
    [space]
    batch_size = { low = 8, high = 64, log = true }
    weight_decay = 0.1
    normalize = { choices = [true, false], when = { strategy = "skip" }, otherwise = true }
    """
    space = load_space(own(tmp_path, text))
    assert space.parameters["batch_size"] == Int(8, 64, log=True)
    assert space.parameters["weight_decay"] == Choice((0.1,))
    assert space.parameters["normalize"] == Choice((True, False), Condition((("strategy", "skip"),), True))


@pytest.mark.parametrize(
    ("text", "override", "epochs"),
    [
        ("[space]\nepochs = { choices = [4, 8] }", (), Choice((4, 8))),
        ("[space]\nepochs = { low = 2, high = 9, log = true }", (), Int(2, 9, log=True)),
        ("[training]\nepochs = 3\n[space]\nepochs = { choices = [4, 8] }", (), Choice((4, 8))),
        ("[space]\nepochs = { choices = [4, 8] }", ("training.epochs=2",), Choice((2,))),
        ("[training]\nepochs = 3", ("space.epochs={low=1, high=2}",), Int(1, 2, log=False)),
        ("[training]\nepochs = 3", ("space.epochs=5", "training.epochs=6"), Choice((6,))),
    ],
)
def test_epochs_are_what_was_said_last_of_them(
    tmp_path: Path, text: str, override: tuple[str, ...], epochs: Parameter
) -> None:
    assert load_space(own(tmp_path, text), override).parameters["epochs"] == epochs


def test_what_students_start_from_may_be_searched_too(tmp_path: Path) -> None:
    text = """
    [space]
    init = { choices = ["pretrained", "teacher-skip"] }
    epochs = { choices = [4, 8], when = { init = "pretrained" }, otherwise = 2 }
    """
    space = load_space(own(tmp_path, text))
    assert space.parameters["init"] == Choice(("pretrained", "teacher-skip"))
    assert space.parameters["epochs"] == Choice((4, 8), Condition((("init", "pretrained"),), 2))
    assert inits(space.parameters) == ("pretrained", "teacher-skip")
    assert epoch_shares(space.parameters) == {4: 0.25, 8: 0.25, 2: 0.5}
    assert problems(own(tmp_path, '[space]\ninit = "techer"')) == [
        f'{tmp_path / "mine.toml"}: init in [space] must be "pretrained", "teacher" or "teacher-skip", but got "techer"'
    ]


def changed(*overrides: str) -> Space:
    return load_space(find_space("default"), overrides)


def test_single_values_are_overridden() -> None:
    assert changed("training.epochs=8").training.epochs == 8
    assert changed("training.epochs=8", "training.epochs = 9").training.epochs == 9
    assert changed("space.alpha=0.5").parameters == {**DEFAULT.parameters, "alpha": Choice((0.5,))}
    assert changed("space.beta={low=1, high=10}").parameters["beta"] == Float(1.0, 10.0, log=False)
    assert changed('space.strategy="last"').parameters["strategy"] == Choice(("last",))
    assert changed("space.normalize=true").parameters["normalize"] == Choice((True,))
    assert changed("training.init=teacher-skip").parameters["init"] == Choice(("teacher-skip",))
    assert changed("teacher.learning_rates=[1e-5]").teacher[0].learning_rate == 1e-5
    assert changed("search.trials=all", "search.sampler=grid").trials is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs=0", "epochs in [training] must be a whole number from 1 to 1000000, but got 0"),
        ("space.alpha=[0.5", 'the value is not TOML, such as 8, 0.5, "skip", [1, 2] or {low = 1, high = 10}'),
        ("training.epochs", "give TABLE.KEY=VALUE, such as training.epochs=8"),
        ("epochs=8", "give TABLE.KEY=VALUE, such as training.epochs=8"),
        ("training.epochs=", "give TABLE.KEY=VALUE, such as training.epochs=8"),
        ("training.epoch=8", "unknown key 'epoch' in [training]; did you mean epochs?"),
        ("trainig.epochs=8", "unknown table or key 'trainig'; did you mean training?"),
        ("search.trials=all", 'trials in [search] may be "all" only with sampler = "grid", but that is "tpe"'),
    ],
)
def test_mistakes_in_overrides_name_them(tmp_path: Path, override: str, message: str) -> None:
    assert problems(own(tmp_path, ""), override) == [f"--set {override}: {message}"]


def test_what_an_override_hides_is_not_reported(tmp_path: Path) -> None:
    assert load_space(own(tmp_path, "[training]\nepochs = 0"), ["training.epochs=2"]).training.epochs == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[space", "not a TOML file: Expected ']' at the end of a table declaration (at end of document)"),
        ("[serch]", "unknown table or key 'serch'; did you mean search?"),
        ("search = 3", "[search] must be a table, but got 3"),
        ("[teacher]\nepoch = 4", "unknown key 'epoch' in [teacher]; did you mean epochs?"),
        ("[search]\ntrials = 0", 'trials in [search] must be a whole number from 1 to 1000000, or "all", but got 0'),
        ("[search]\ncontrol_trials = -1", "control_trials in [search] must be a whole number from 0 to 1000000, "),
        ("[search]\nseeds = 3000000000", "seeds in [search] must be a whole number from 0 to 1000, but got 3000000000"),
        ('[search]\nsampler = "best"', 'sampler in [search] must be "tpe", "random" or "grid", but got "best"'),
        ('[search]\nstages = [{ method = "pdk" }]', "method of stage 1 in [search] must be one of pkd, pkd-skip, "),
        ('[search]\nstages = [{ method = "kd", keep = ["alpha"] }]', "the first of the stages in [search] has no "),
        (
            '[search]\nstages = [{ method = "kd" }, { method = "pkd", keep = ["batch_size"] }]',
            "stage 2 in [search] keeps batch_size, which is not in [space]",
        ),
        (
            '[search]\nstages = [{ method = "kd" }, { method = "pkd" }, { method = "pkd", keep = ["beta"] }]',
            "stage 3 in [search] has the method of an earlier one, pkd; search each once",
        ),
        (
            '[search]\nstages = [{ method = "kd" }, { method = ["pkd"], keep = ["alpha"] }]',
            "method of stage 2 in [search] must be one of pkd, pkd-skip, ",
        ),
        (
            '[search]\nstages = [{ method = "kd" }, { method = "pkd", keep = ["beta"] }]',
            "stage 2 in [search] keeps beta, which kd does not search",
        ),
        (
            '[search]\nstages = [{ method = "pkd-skip" }, { method = "pkd", keep = ["strategy"] }]',
            "stage 2 in [search] keeps strategy, which pkd-skip does not search",
        ),
        ("[training]\nbatch_size = 32.0", "batch_size in [training] must be a whole number from 1 to 1000000, but got"),
        ("[training]\nmax_length = 1000", "max_length in [training] must be a whole number from 8 to 512, but got"),
        ("[teacher]\nlearning_rates = [2e-5, 0]", "learning_rates in [teacher] must be a finite number above 0, but g"),
        ("[teacher]\nlearning_rates = []", "learning_rates in [teacher] must have at least one entry"),
        ("[space]\nalhpa = 0.5", "unknown key 'alhpa' in [space]; did you mean alpha?"),
        ("[space]\nalpha = { low = 0.9, high = 0.2 }", "alpha in [space] must have a low below its high, but 0.9 is "),
        ("[space]\nalpha = { low = 0.2, high = 1.5 }", "high of alpha in [space] must be a number in [0, 1], but got "),
        ("[space]\nalpha = { low = 0.2 }", "alpha in [space] must have choices, or both low and high"),
        (
            '[space]\nalpha = { low = "0.2", high = 0.9 }',
            "low of alpha in [space] must be a number in [0, 1], but got ",
        ),
        ("[space]\nalpha = { low = 0.2, high = 0.9, step = 1 }", "unknown key 'step' of alpha in [space]; known are "),
        ("[space]\nalpha = { choices = [] }", "choices of alpha in [space] must have at least one entry"),
        (
            "[space]\nalpha = { choices = [0.2], low = 0.1, high = 0.2 }",
            "alpha in [space] must have choices, or low an",
        ),
        ("[space]\nalpha = true", "alpha in [space] must be a number in [0, 1], but got true"),
        ("[space]\nbeta = { low = 0, high = 9.0, log = true }", "beta in [space] must have a low above 0 on a logarit"),
        ("[space]\nbeta = inf", "beta in [space] must be a finite number of at least 0, but got Infinity"),
        ("[space]\nbeta = { low = nan, high = 1 }", "low of beta in [space] must be a finite number of at least 0, bu"),
        (
            '[space]\nstrategy = { choices = ["skip", "first"] }',
            'strategy in [space] must be "skip" or "last", but got',
        ),
        ("[space]\nnormalize = { choices = [true, 0] }", "normalize in [space] must be true or false, but got 0"),
        ("[space]\nalpha = { low = 0.2, high = 0.9, int = true }", "alpha in [space] must have whole numbers for low "),
        ("[space]\nalpha = { choices = [0.2], otherwise = 0.5 }", "alpha in [space] must have both when and otherwise"),
        (
            '[space]\nalpha = { low = 0.2, high = 0.9, when = { strategy = "skip" }, otherwise = 7 }',
            "otherwise of alpha in [space] must be a number in [0, 1], but got 7",
        ),
        (
            '[space]\nalpha = { low = 0.2, high = 0.9, when = { strategy = "first" }, otherwise = 0.5 }',
            'when of alpha in [space] asks for strategy = "first", but only a value among the choices',
        ),
        ("[space]\nbatch_size = 0", "batch_size in [space] must be a whole number from 1 to 1000000, but got 0"),
        (
            "[space]\nbatch_size = { low = 8, high = 16, int = false }",
            "int of batch_size in [space] must be true, but ",
        ),
        ("[space]\nbatch_size = { low = 8, high = 10000000000 }", "high of batch_size in [space] must be a whole numb"),
    ],
)
def test_mistakes_name_file_key_rule_and_value(tmp_path: Path, text: str, message: str) -> None:
    path = own(tmp_path, text)
    (problem,) = problems(path)
    assert problem.startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[" * 5000 + "]" * 5000, "not a space file: its values are nested too deeply"),
        ("[" * 100 + "]" * 100, "beta in [space] must be a finite number of at least 0, but got [[[["),
        ("1" * 5000, "not a space file: it has a number of thousands of digits"),
        ("1" * 4000, "beta in [space] must be a finite number of at least 0, but got 1111"),
        ("0x" + "f" * 5000, "beta in [space] must be a finite number of at least 0, but got a number of thousands"),
    ],
    ids=["deeply-nested", "nested", "5000-digits", "4000-digits", "5000-hex-digits"],
)
def test_absurd_values_are_one_short_line(tmp_path: Path, value: str, message: str) -> None:
    path = own(tmp_path, f"[space]\nbeta = {value}")
    (problem,) = problems(path)
    assert problem.startswith(f"{path}: {message}")
    assert all(
        problem.startswith("--set space.beta=") for problem in problems(own(tmp_path, ""), f"space.beta={value}")
    )


def test_all_mistakes_are_reported_together_each_with_where_it_was_made(tmp_path: Path) -> None:
    text = """
    [search]
    trials = -1
    trails = 4
    [space]
    alpha = { low = 0.2, high = 9 }
    beta = { low = 1, high = 9, when = { strategy = "none" }, otherwise = 1 }
    """
    path = own(tmp_path, text)
    found = problems(path, "training.epochs=0", "space.temperature=0", "nonsense")
    starts = [f"{path}: trials in", f"{path}: unknown key 'trails'", f"{path}: high of alpha", f"{path}: when of beta"]
    starts += ["--set training.epochs=0: epochs in", "--set space.temperature=0: temperature", "--set nonsense: give"]
    assert len(found) == len(starts)
    assert all(any(problem.startswith(start) for problem in found) for start in starts)


def test_an_unknown_space_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--space nowhere: neither a file nor a shipped space .*default, demo, paper"):
        find_space("nowhere")
    path = own(tmp_path, "")
    assert find_space(path) == path.resolve()
