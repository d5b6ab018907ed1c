"""Published figures, some by hand from their sources."""

from pkd_tune.reporting.methods import METHOD_INFO
from pkd_tune.reporting.published_scores import Published, published, published_dev


def test_figures_from_the_sources() -> None:
    assert published("RTE", "pkd-skip", 6) == Published(68.23, 68.23, 66.5, "65.5")
    assert published("MRPC", "teacher", 12) == Published(86.93, 87.50, 89.5, "89.2/85.2")
    assert published("MRPC", "kd", 3) == Published(75.33, 76.96, None, "79.5/71.1")
    assert published("MNLI", "finetuned", 4) == Published(None, None, 78.4, None)
    assert published("STS-B", "pkd-skip", 6) == Published(None, None, 86.2, "83.4/81.6")


def test_a_searched_strategy_stands_beside_the_authors_own() -> None:
    assert published("QQP", "pkd", 6) == published("QQP", "pkd-skip", 6)
    assert published("QQP", "pkd", 3) == published("QQP", "pkd-last", 3)


def test_nothing_is_made_up() -> None:
    assert published("WNLI", "pkd", 6) is None
    assert published("QQP", "pkd-skip", 3) is None
    assert all(published("RTE", method, 5) is None for method in METHOD_INFO)


def test_the_one_dev_figure_says_what_it_measures() -> None:
    assert published_dev("CoLA", "kd", 6) == "42.2 (Matthews)"
    assert published_dev("CoLA", "pkd", 6) == "45.5 (Theseus)"
    assert published_dev("MRPC", "pkd", 6) == "83.5 (accuracy)"
    assert published_dev("WNLI", "pkd", 6) == "–"
