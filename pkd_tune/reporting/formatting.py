"""How numbers and names are formatted wherever people read them: metrics, counts, hyperparameters, spreads."""

from collections.abc import Sequence
from typing import Any

METRIC_TITLES = {
    "f1": "F1",
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "accuracy_mm": "accuracy (mm)",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}

SETTING_SYMBOLS = {"alpha": "α", "beta": "β", "temperature": "T", "learning_rate": "lr"}
"""Symbols of hyperparameters in L = (1 − α)·CE + α·KD + β·PT."""


def plural(count: int, noun: str) -> str:
    """Returns the count with its noun, `1 layer` or `2 layers`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(words: Sequence[object], last: str = "and") -> str:
    """Returns the words as an enumeration: `a, b and c`."""
    *before, end = map(str, words)
    return f"{', '.join(before)} {last} {end}" if before else end


def metrics_text(metrics: dict[str, float], score: str) -> str:
    """Returns the metrics by name in one line: `F1 86.0, accuracy 80.0, mean 83.0`."""
    return ", ".join(f"{title} {metrics[name]:.1f}" for name, title in metric_titles(metrics, score).items())


def metric_titles(metrics: dict[str, Any], score: str) -> dict[str, str]:
    """Returns the title of each metric, and of the score where it is the mean of several metrics.

    Args:
        metrics: By name, with their `score`.
        score: `mean` of all, or `first` of them.
    """
    names = [name for name in metrics if name != "score"]
    titles = {name: METRIC_TITLES[name] for name in names}
    return titles if len(names) == 1 or score == "first" else {**titles, "score": "mean"}


def number_text(value: float) -> str:
    """Returns a number with three significant digits, but all digits before the decimal point: `0.755`, `1000`.

    Magnitudes up to 0.001 and from 10⁶ on have an exponent without leading zeros: `5e-5`.
    """
    size = abs(value)
    if size and not 1e-3 < size < 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.3g}" if size < 999.5 else f"{value:.0f}"


def setting_text(value: Any) -> str:
    """Returns the value of a hyperparameter: `yes` or `no`, a number as `number_text` formats it, or a word."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number_text(value) if isinstance(value, float) else str(value)


def share_text(share: float) -> str:
    """Returns a share in percent, `98%`; just below the whole with a decimal place, `99.6%`, and never as `100%`."""
    return f"{share:.0%}" if not 0.995 <= share < 1 else f"{min(round(100 * share, 1), 99.9)}%"


def spread_text(mean: float, sd: float | None) -> str:
    """Returns `83.1 ± 0.4`, or the mean alone where there is no standard deviation."""
    return f"{mean:.1f}" if sd is None else f"{mean:.1f} ± {sd:.1f}"


def signed(number: float, digits: int = 1) -> str:
    """Returns the number with this many decimal places and a minus sign instead of a hyphen: `−0.5`."""
    return f"{round(number, digits) + 0.0:.{digits}f}".replace("-", "−")


def millions(count: int) -> str:
    """Returns a number of parameters: `22.7 M`."""
    return f"{count / 1e6:.{1 if count > 1e7 else 2}f} M"
