"""Which settings matter: permutation importance (Breiman 2001) in a random forest fitted to a search's trials."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor

from pkd_tune.reporting.methods import unused_settings
from pkd_tune.reporting.run import Run

FEWEST_TRIALS = 8
"""Complete trials below which nothing is computed."""

TREES = 100
SHUFFLES = 20


@dataclass(frozen=True, slots=True)
class Importances:
    """How much each setting matters, the most important last."""

    names: list[str]
    drops: list[float]
    """By how much the forest's R² falls when a setting's values are shuffled among the trials; mean of the shuffles."""
    spreads: list[float]
    """Standard deviations of the same."""
    trials: int
    r2: float
    """Out of bag: of trials each tree has not seen. Near or below 0, the forest knows nothing general."""


def tried(run: Run, depth: int, method: str) -> pd.DataFrame:
    """Returns the complete search trials of a depth and method: settings that vary and have an effect, and score."""
    trials = run.of_stage("search")
    trials = trials[(trials["depth"] == depth) & (trials["method"] == method) & (trials["state"] == "complete")]
    unused = unused_settings(method, depth)
    varied = [name for name in run.settings if name not in unused and trials[name].nunique() > 1]
    return trials[[*varied, "score", "trial"]]


def importances(run: Run, depth: int, method: str) -> Importances | None:
    """Returns the settings' importances; None with fewer than `FEWEST_TRIALS` complete trials or nothing varied."""
    trials = tried(run, depth, method)
    names = [str(name) for name in trials if name not in ("score", "trial")]
    if len(trials) < FEWEST_TRIALS or not names:
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


def _drops(forest: RandomForestRegressor, inputs_TS: np.ndarray, scores_T: np.ndarray) -> np.ndarray:
    """Returns by how much R² falls for each setting and shuffle: an array (settings, shuffles).

    As scikit-learn's `permutation_importance`, but with one prediction for all shuffles, which is many times faster.
    Shape suffixes: T trials, S settings.
    """
    random = np.random.default_rng(0)
    shuffled = np.repeat(inputs_TS[None], inputs_TS.shape[1] * SHUFFLES, axis=0)
    for number, table_TS in enumerate(shuffled):
        table_TS[:, number // SHUFFLES] = random.permutation(table_TS[:, number // SHUFFLES])
    predicted = forest.predict(np.concatenate([inputs_TS, *shuffled])).reshape(-1, len(scores_T))
    errors = ((predicted - scores_T) ** 2).sum(axis=1) / max(((scores_T - scores_T.mean()) ** 2).sum(), 1e-12)
    return np.asarray(errors[1:] - errors[0]).reshape(-1, SHUFFLES)


def as_numbers(values: pd.Series) -> pd.Series:
    """Returns numbers as they are, and words and truth values as the place of each in their sorted order."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return values.astype(float)
    return values.astype("category").cat.codes.astype(float)
