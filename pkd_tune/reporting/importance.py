"""Hyperparameter importances: permutation importance (Breiman, 2001) in a random forest fitted to the trials."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pkd_tune.reporting.formatting import listed, plural
from pkd_tune.reporting.methods import METHOD_INFO, is_regression, unused_settings
from pkd_tune.reporting.run import Run

if TYPE_CHECKING:  # takes seconds to import
    from sklearn.ensemble import RandomForestRegressor

MIN_TRIALS = 8
"""Number of complete trials below which importances are not computed."""

TREES = 100
SHUFFLES = 20


@dataclass(frozen=True, slots=True)
class Importances:
    """The importance of each hyperparameter, in ascending order."""

    names: list[str]
    drops: list[float]
    """Decrease of the forest's R² when a hyperparameter is shuffled among the trials, mean over the shuffles."""
    spreads: list[float]
    """Standard deviations over the shuffles."""
    trials: int
    r2: float
    """Out-of-bag R²: of trials each tree has not seen. Near or below 0, the forest does not generalise."""


def tried(run: Run, depth: int, method: str) -> pd.DataFrame:
    """Returns the complete search trials of a depth and method.

    Columns: the hyperparameters that vary and have an effect, `score` and `trial`.
    """
    trials = run.of_stage("search")
    trials = trials[(trials["depth"] == depth) & (trials["method"] == method) & (trials["state"] == "complete")]
    unused = unused_settings(method, depth, regression=is_regression(trials.columns))
    varied = [name for name in run.settings if name not in unused and trials[name].nunique() > 1]
    return trials[[*varied, "score", "trial"]]


def varied(trials: pd.DataFrame) -> list[str]:
    """Returns the hyperparameters among the columns of `tried()`."""
    return [str(name) for name in trials if name not in ("score", "trial")]


def has_enough_trials(trials: pd.DataFrame) -> bool:
    """Returns whether importances can be computed from the table of `tried()`."""
    return len(trials) >= MIN_TRIALS and bool(varied(trials))


def without_importances(run: Run) -> Iterator[str]:
    """Yields a sentence that names the depths and PKD methods without importances, if there are any, and the reason."""
    few = []
    for depth in run.search["depths"]:
        for method in run.methods:
            if method.startswith("pkd") and not has_enough_trials(trials := tried(run, depth, method)):
                few.append(f"{METHOD_INFO[method].title} with {plural(depth, 'layer')} ({len(trials)} complete)")
    if few:
        yield (
            f"Hyperparameter importances are not available for {listed(few)}: they need {MIN_TRIALS} complete "
            "trials with different hyperparameters. A larger `--trials` adds trials, unless the search space is "
            "exhausted."
        )


def importances(run: Run, depth: int, method: str) -> Importances | None:
    """Returns the importances; None with fewer than `MIN_TRIALS` complete trials or without varying values."""
    from sklearn.ensemble import RandomForestRegressor

    trials = tried(run, depth, method)
    names = varied(trials)
    if not has_enough_trials(trials):
        return None
    inputs, scores = trials[names].apply(as_numbers).to_numpy(), trials["score"].to_numpy(dtype=float)
    forest = RandomForestRegressor(n_estimators=TREES, oob_score=True, random_state=0).fit(inputs, scores)
    drops = _drops(forest, inputs, scores)
    rising = np.argsort(drops.mean(axis=1), kind="stable")
    return Importances(
        names=[names[i] for i in rising],
        drops=[float(drops[i].mean()) for i in rising],
        spreads=[float(drops[i].std()) for i in rising],
        trials=len(trials),
        r2=float(forest.oob_score_),
    )


def _drops(forest: "RandomForestRegressor", inputs_TS: np.ndarray, scores_T: np.ndarray) -> np.ndarray:
    """Returns the decrease of R² for each hyperparameter and shuffle: an array of shape (S, SHUFFLES).

    Computes what scikit-learn's `permutation_importance` does, in one prediction for all shuffles, which is faster.
    Shape suffixes: T trials, S hyperparameters.
    """
    random = np.random.default_rng(0)
    shuffled = np.repeat(inputs_TS[None], inputs_TS.shape[1] * SHUFFLES, axis=0)
    for number, table_TS in enumerate(shuffled):
        table_TS[:, number // SHUFFLES] = random.permutation(table_TS[:, number // SHUFFLES])
    predicted = forest.predict(np.concatenate([inputs_TS, *shuffled])).reshape(-1, len(scores_T))
    errors = ((predicted - scores_T) ** 2).sum(axis=1) / max(((scores_T - scores_T.mean()) ** 2).sum(), 1e-12)
    return np.asarray(errors[1:] - errors[0]).reshape(-1, SHUFFLES)


def as_numbers(values: pd.Series) -> pd.Series:
    """Returns numbers unchanged, and categories and booleans as their rank in sorted order."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return values.astype(float)
    return values.astype("category").cat.codes.astype(float)
