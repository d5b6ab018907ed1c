import pytest

from pkd_tune.config import DistillConfig, UserError
from pkd_tune.distillation.published_settings import PUBLISHED, Published, published


def test_known_winners() -> None:
    assert published("pkd", 6, "RTE") == Published(1e-5, 10, 0.7, 500, True, "skip")
    assert published("pkd", 3, "QNLI") == Published(5e-5, 20, 0.7, 100, False, "last")
    assert published("kd", 6, "CoLA") == Published(2e-5, 5, 0.7, 0.0)


def test_every_winner_is_a_possible_setting() -> None:
    for (method, layers, _), winner in PUBLISHED.items():
        config = DistillConfig(
            student_layers=layers,
            alpha=winner.alpha,
            beta=winner.beta,
            temperature=winner.temperature,
            strategy=winner.strategy,
            normalize=winner.normalize,
        )
        assert (config.beta == 0) == (method == "kd")
        assert winner.learning_rate in (1e-5, 2e-5, 5e-5)  # the paper's grid


def test_unpublished_settings_are_an_error_that_lists_published_ones() -> None:
    with pytest.raises(
        UserError, match=r"no settings were published for kd on RTE with 3 layers, only for .*RTE with 6 layers"
    ):
        published("kd", 3, "RTE")
