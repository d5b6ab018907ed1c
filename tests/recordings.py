"""Made-up recorded tables, and runs of which tables are recorded."""

from pathlib import Path
from typing import Any

from studies import ask, finish, plan

from pkd_tune.benchmark.recorded import Recording, Table, Training
from pkd_tune.files import JOURNAL, RUN, write_json
from pkd_tune.tuning.space import Choice, Parameters
from pkd_tune.tuning.studies import Studies

GRID: Parameters = {
    "alpha": Choice((0.2, 0.7)),
    "learning_rate": Choice((1e-4, 1e-3)),
    "normalize": Choice((True, False)),
}
KD: Parameters = {"alpha": Choice((0.2, 0.7)), "learning_rate": Choice((1e-4, 1e-3)), "temperature": Choice((10,))}


def training(*scores: float, per_epoch: int = 2, degenerate: bool = False) -> Training:
    return Training(
        epochs=tuple(i / per_epoch for i in range(1, len(scores) + 1)),
        scores=scores,
        degenerate=(degenerate,) * len(scores),
    )


def recording(
    *scores: float, other: float | None = None, method: str = "pkd", depth: int = 2, **settings: Any
) -> Recording:
    """Returns a recording whose second seed ends with another score."""
    second = training(*scores[:-1], scores[-1] if other is None else other)
    return Recording(depth=depth, method=method, settings=settings, trainings=(training(*scores), second))


def table(*recordings: Recording) -> Table:
    return Table(name="made-up-2", recordings=recordings)


def write_run(folder: Path, seed: int, trials: int = 12, grid: Parameters = GRID, **search: Any) -> Path:
    """Writes a run folder as a search with a grid leaves it: with the usual one, 8 settings of PKD and 4 of KD."""
    folder.mkdir()
    training = {"seed": seed, "epochs": 2}
    about = {"depths": [2], "data": {"task": {"name": "MRPC"}}, "student_training": training}
    kd = {**KD, "learning_rate": grid["learning_rate"]}
    space = {name: {"values": [*each.values]} for name, each in {**kd, **grid}.items() if isinstance(each, Choice)}
    write_json(folder / RUN, {"search": {**about, **search}, "space": space})
    plans = (plan(2, 8, parameters=grid), plan(2, 4, "kd", kd))
    studies = Studies(folder / JOURNAL, plans, sampler="grid", seed=seed, early_stopping=False)
    for _ in range(trials):
        trial_id, settings = ask(studies)
        finish(studies, trial_id, 70.0, 70 + 10 * settings["alpha"] + seed)
    return folder
