"""What trials choose from, without a file."""

from typing import Any

import optuna
import pytest

from pkd_tune.config import DistillConfig, TrainingConfig
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
    trial_configs,
)

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
    assert all_settings({"batch_size": Int(1, 10**12, log=True)}) is None  # and no list of them is built
    assert all_settings({"alpha": Choice(tuple(range(400))), "beta": Choice(tuple(range(400)))}) is None
    assert description(sizes["batch_size"]) == {"low": 16, "high": 18, "log": False, "int": True}
    assert description(BOTH["beta"]) == {"values": [10, 100], "when": {"strategy": "skip"}, "otherwise": 1}


LOSS: dict[str, Any] = {"alpha": 0.5, "beta": 10, "temperature": 5, "strategy": "skip", "normalize": True}


def test_settings_become_the_configs_that_have_fields_of_their_names() -> None:
    base = TrainingConfig(epochs=7, seed=3)
    config, training = trial_configs({**LOSS, "learning_rate": 2e-5, "batch_size": 8}, 3, base)
    assert config == DistillConfig(student_layers=3, **LOSS)
    assert training == TrainingConfig(epochs=7, seed=3, learning_rate=2e-5, batch_size=8)


def test_a_setting_of_no_config_and_a_missing_one_are_bugs() -> None:
    with pytest.raises(TypeError, match="gamma"):
        trial_configs({**LOSS, "gamma": 1}, 3, TrainingConfig())
    with pytest.raises(TypeError, match="alpha"):
        trial_configs({name: value for name, value in LOSS.items() if name != "alpha"}, 3, TrainingConfig())
