"""A run folder read as a whole: every record that is there, defaults for what older runs lack, and what is missing.

Everything a report says or draws comes from a `Run`. It can be made of half a run: a search that has just begun, was
killed, or whose folder lost a file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pkd_tune.config import METHODS, UserError
from pkd_tune.files import EVALUATIONS, RUN, SUMMARY, TRIALS, read_json
from pkd_tune.reporting.records import read_rows

ENDED = ("complete", "stopped early", "failed")
"""States of trials that used up their place in the search; an interrupted one runs again."""

STATES = (*ENDED, "interrupted")

_SEARCH_DEFAULTS = {
    "methods": ["pkd"],
    "sampler": "tpe",
    "trials": 0,
    "control_trials": 0,
    "seeds": 0,
}
_TRIAL_DEFAULTS = {"method": "pkd", "stage": "search"}
_TRIAL_COLUMNS = ("depth", "method", "stage", "trial", "seed", "state", "score", "best_epoch", "epochs", "started")
_STUDENT_DEFAULTS: dict[str, Any] = {"method": "pkd", "confirmed": None, "against": []}
_SETTINGS = ("alpha", "beta", "temperature", "learning_rate", "strategy", "normalize")


@dataclass(frozen=True, slots=True)
class Run:
    """What a run folder holds."""

    folder: Path
    task: str
    demo: bool
    record: dict[str, Any] | None
    """run.json; None when it is missing. What it says of the search is in `search`, with defaults."""
    search: dict[str, Any]
    """Always has depths, methods, sampler, trials (None: every point of a grid), control_trials and seeds."""
    settings: tuple[str, ...]
    """Names of what each trial chose."""
    teacher: dict[str, Any] | None
    """None while there is no summary.json: the search has not ended."""
    students: list[dict[str, Any]]
    """The best of each depth and method, by depth, controls first."""
    planned: int | None
    """Trials the search was to have, its grid or space allowing; None where older runs do not say."""
    latency_on: str
    trials: pd.DataFrame
    """One row per training; has every column of `_TRIAL_COLUMNS`, `seconds`, `error` and the settings."""
    evaluations: pd.DataFrame
    """One row per scoring during a training, of dev or the held-out slice; empty when none was kept."""
    missing: tuple[str, ...]
    """Which records are not there but summary.json, and what that means, a sentence each."""

    @property
    def name(self) -> str:
        """Returns what the teacher is called; run folders are named after it."""
        return str(self.teacher["name"]) if self.teacher else self.folder.name

    @property
    def holdout(self) -> bool:
        """Tells whether a slice held out of train chose settings and epochs; else the official dev split did."""
        return bool(self.search.get("data", {}).get("select_on") == "holdout")

    @property
    def chosen_on(self) -> str:
        """Returns what the examples are called that chose settings and epochs."""
        return "held-out slice" if self.holdout else "dev"

    def of_stage(self, stage: str) -> pd.DataFrame:
        """Returns the trainings of a stage, `search` or `confirm`."""
        return self.trials[self.trials["stage"] == stage]


def is_run(folder: Path) -> bool:
    """Tells whether a folder is a run or what is left of one."""
    return any((folder / name).is_file() for name in (RUN, SUMMARY, TRIALS))


def read_run(folder: Path) -> Run:
    """Reads a run folder.

    Raises:
        UserError: When a record is damaged.
    """
    folder = folder.resolve()
    record = _record(folder / RUN, ("search", "space", "resources", "provenance"))
    summary = _record(folder / SUMMARY, ("teacher", "students")) or {"students": []}
    search = {**_SEARCH_DEFAULTS, **(record or {}).get("search", {})}
    if "stages" in search:
        search["methods"] = [stage["method"] for stage in search["stages"]]
    trials = _trials(read_rows(folder / TRIALS), search)
    found = set(trials["depth"]) | {student["layers"] for student in summary["students"]}
    search.setdefault("depths", sorted(found))
    students = [_student(student, trials) for student in summary["students"]]
    settings = (record or {}).get("space", _SETTINGS)
    return Run(
        folder=folder,
        task=search["data"]["task"] if "data" in search else folder.parent.name,
        demo=bool((record or {}).get("demo", False)),
        record=record,
        search=search,
        settings=tuple(name for name in settings if name in trials),
        teacher=summary.get("teacher"),
        students=sorted(students, key=lambda student: (student["layers"], METHODS.index(student["method"]))),
        planned=summary.get("planned"),
        latency_on=summary.get("latency_on", "a CPU"),
        trials=trials,
        evaluations=read_rows(folder / EVALUATIONS),
        missing=_missing(folder, record),
    )


def _record(path: Path, parts: tuple[str, ...]) -> dict[str, Any] | None:
    """Returns a record that has these parts; None when there is no such file."""
    if not path.exists():
        return None
    record = read_json(path)
    if missing := [part for part in parts if part not in record]:
        raise UserError(f"{path} is damaged (no {', '.join(missing)} in it); restore it, or move the run elsewhere")
    return record


def _trials(trials: pd.DataFrame, search: dict[str, Any]) -> pd.DataFrame:
    """Returns the trials with all columns that reports read; unknown values are empty."""
    columns = ("depth", "state", "trial", "score") if trials.empty else ()
    for name in (*columns, *_TRIAL_COLUMNS, "seconds", "evaluations", "error"):
        if name not in trials:
            trials[name] = _TRIAL_DEFAULTS.get(name)
    training = search.get("student_training", {})
    if trials["epochs"].isna().all() and "evaluations_per_epoch" in training:
        trials["epochs"] = trials["evaluations"] / training["evaluations_per_epoch"]
    return trials


def _student(student: dict[str, Any], trials: pd.DataFrame) -> dict[str, Any]:
    """Returns a student of summary.json with what older runs lack."""
    student = {**_STUDENT_DEFAULTS, **student}
    same = trials[(trials["depth"] == student["layers"]) & (trials["method"] == student["method"])]
    ended = same[(same["stage"] == "search") & same["state"].isin(ENDED)]
    return {"trials_ended": len(ended) or None, **student}


def _missing(folder: Path, record: dict[str, Any] | None) -> tuple[str, ...]:
    """Returns what the folder lacks."""
    there = {name for name in (RUN, TRIALS, EVALUATIONS) if (folder / name).exists()}
    sentences = []
    if RUN not in there:
        sentences.append("run.json is missing, so how this run was made is not known.")
    if TRIALS not in there:
        sentences.append("trials.csv is missing, so nothing can be said of the trials.")
    if record is not None and not {"methods", "stages"} & set(record["search"]):
        sentences.append(
            "This run was recorded before there were controls and confirmations: it has PKD students only, and no "
            "score on fresh seeds."
        )
    if TRIALS in there and EVALUATIONS not in there:
        sentences.append(
            "evaluations.csv is missing, so nothing is drawn over epochs: no rungs, loss terms, agreement or cosines."
        )
    return tuple(sentences)
