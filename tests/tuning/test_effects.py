"""Which settings are one and the same training run."""

from pkd_tune.tuning.effects import as_method, effective
from pkd_tune.tuning.space import Settings

PKD: Settings = {
    **{"alpha": 0.5, "beta": 10.0, "temperature": 5.0, "learning_rate": 1e-4},
    **{"strategy": "last", "normalize": True},
}


def test_a_student_of_one_layer_has_no_patience_term() -> None:
    assert effective(PKD, 2) == PKD
    assert effective(PKD, 1) == effective({**PKD, "beta": 0.0}, 1) == as_method(PKD, "kd")


def test_settings_that_differ_where_nothing_has_an_effect_are_equal() -> None:
    without_patience = {**PKD, "beta": 0.0}
    assert effective(without_patience, 2) == effective({**without_patience, "strategy": "skip", "normalize": False}, 2)
    alone = {**without_patience, "alpha": 0.0}
    assert effective(alone, 2) == effective({**alone, "temperature": 9.0}, 2) == as_method(PKD, "finetuned")
    assert effective(without_patience, 2) != effective({**without_patience, "temperature": 9.0}, 2)
    assert effective(PKD, 2) != effective({**PKD, "learning_rate": 2e-4}, 2)
