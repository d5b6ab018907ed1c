"""Permutation importances find what a score was made of."""

import random
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from recorded_run import write_run
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from pkd_tune.reporting.importance import MIN_TRIALS, SHUFFLES, TREES, importances, tried, without_importances
from pkd_tune.reporting.run import Run, read_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return read_run(write_run(tmp_path / "MRPC" / "minilm", trials=4))


def search_of(run: Run, trials: int) -> Run:
    """Returns the run with PKD trials of 3 layers whose score is made of beta alone."""
    draws = random.Random(0)
    rows = []
    for number in range(trials):
        alpha, beta = draws.random(), draws.random()
        settings = {"alpha": alpha, "beta": beta, "strategy": draws.choice(["skip", "last"])}
        fixed = {"depth": 3, "method": "pkd", "stage": "search", "state": "complete", "temperature": 10.0}
        score = 70 + 5 * beta
        rows.append({**fixed, "trial": number, "score": score, **settings, "learning_rate": 1e-5, "normalize": True})
        rows[-1] |= {"init": "pretrained", "epochs": 4}
    return replace(run, trials=pd.DataFrame(rows))


def test_the_setting_that_makes_the_score_is_found(run: Run) -> None:
    found = importances(search_of(run, 30), 3, "pkd")
    assert found is not None
    assert found.names[-1] == "beta"
    assert sorted(found.names) == ["alpha", "beta", "strategy"]  # the others did not vary
    assert found.drops == sorted(found.drops)
    assert found.drops[-1] > 1
    assert max(found.drops[:-1]) < 0.1
    assert found.trials == 30
    assert 0.8 < found.r2 < 1


def test_as_scikit_learn_finds_them(run: Run) -> None:
    """Both shuffle at random, so the means agree within their own spread."""
    run = search_of(run, 30)
    found = importances(run, 3, "pkd")
    assert found is not None
    table = tried(run, 3, "pkd").replace({"last": 0.0, "skip": 1.0})
    inputs = table[["alpha", "beta", "strategy"]].astype(float).to_numpy()
    forest = RandomForestRegressor(n_estimators=TREES, random_state=0).fit(inputs, table["score"])
    theirs = permutation_importance(forest, inputs, table["score"], n_repeats=SHUFFLES, random_state=1)
    ours = dict(zip(found.names, found.drops, strict=True))
    for i, name in enumerate(("alpha", "beta", "strategy")):
        assert ours[name] == pytest.approx(theirs.importances_mean[i], abs=3 * theirs.importances_std[i] + 1e-3)


def test_few_trials_have_none(run: Run) -> None:
    assert importances(search_of(run, MIN_TRIALS - 1), 3, "pkd") is None
    assert importances(search_of(run, MIN_TRIALS), 3, "pkd") is not None
    assert importances(search_of(run, MIN_TRIALS), 2, "pkd") is None


def test_what_has_none_is_named_with_what_it_lacks(run: Run) -> None:
    (said,) = without_importances(search_of(run, MIN_TRIALS - 1))
    assert said == (
        "Hyperparameter importances are not available for PKD with 2 layers (0 complete) and PKD with 3 layers (7 "
        "complete): they need 8 complete trials with different hyperparameters. A larger `--trials` adds trials, "
        "unless the search space is exhausted."
    )
    (said,) = without_importances(search_of(run, MIN_TRIALS))
    assert "2 layers (0 complete): " in said
    assert "3 layers" not in said
    record = {**run.record, "search": {**run.search, "depths": [3]}}
    assert list(without_importances(replace(search_of(run, MIN_TRIALS), record=record))) == []


def test_settings_that_never_differ_have_none(run: Run) -> None:
    same = search_of(run, 30).trials.assign(alpha=0.5, beta=1.0, strategy="skip")
    record = {**run.record, "search": {**run.search, "depths": [3]}}
    assert importances(replace(run, trials=same), 3, "pkd") is None
    (said,) = without_importances(replace(run, trials=same, record=record))
    assert "for PKD with 3 layers (30 complete): " in said
