"""The records of a run folder, read and checked, and the tables of a run, written and read.

A run has run.json from the start of its search; trials.csv, evaluations.csv and summary.json are written when it ends.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from pkd_tune.config import METHODS, UserError
from pkd_tune.files import EVALUATIONS, RUN, SUMMARY, TRIALS, read_json, write_text
from pkd_tune.reporting.verdict import DEFAULT_TOLERANCE, Verdict, choose_student

ENDED = ("complete", "stopped early", "failed")
"""States of trials that count towards the number of trials; an interrupted trial runs again."""

STATES = (*ENDED, "interrupted")

Status = Literal["finished", "interrupted", "time limit", "no student"]
"""How a search ended."""

_TRAINING = ("batch_size", "seed")
_RUN_KEYS = (
    "demo",
    *(f"search.data.{name}" for name in ("task.name", "task.score", "max_length", "select_on")),
    *(f"search.student_training.{name}" for name in _TRAINING),
    *(f"search.{name}" for name in ("teacher_trainings", "depths", "stages", "trials", "control_trials", "seeds")),
    *(f"search.{name}" for name in ("sampler", "seed")),
    *(f"space.{name}" for name in ("epochs", "init")),
    *(f"resources.{name}" for name in ("device", "count", "per_gpu", "threads")),
    *(f"provenance.{name}" for name in ("command", "started", "git", "python", "versions", "machine")),
    "data_from_here",
    "content",
)
_MODEL_KEYS = ("layers", "metrics.score", "parameters", "size_mb", "latency_ms")
_SUMMARY_KEYS = (
    *(f"teacher.{name}" for name in ("name", "finetuned_here", "majority.score", "baseline", "examples", *_MODEL_KEYS)),
    "students",
    "planned",
    "latency_on",
)
_STUDENT_KEYS = (
    *("method", "trial", "trials_ended", "search_score", "epoch", "settings", "imitated_layers", "confirmed"),
    *("folder", "against", *_MODEL_KEYS),
)
_TRIAL_COLUMNS = (
    *("depth", "method", "stage", "trial", "seed", "state", "score", "best_epoch", "evaluations"),
    *("epochs_trained", "started", "seconds", "error"),
)
_EVALUATION_COLUMNS = ("depth", "method", "stage", "trial", "evaluation", "epoch", "score")


@dataclass(frozen=True, slots=True)
class Run:
    """A run, as its folder records it."""

    folder: Path
    """The run folder, absolute."""
    record: dict[str, Any]
    """Content of run.json."""
    settings: tuple[str, ...]
    """Names of the hyperparameters in the search space."""
    teacher: dict[str, Any] | None
    """The teacher of summary.json; None while there is no summary.json, because the search has not ended."""
    students: list[dict[str, Any]]
    """The best student of each depth and method, from summary.json, ordered by depth, then as `config.METHODS`."""
    verdict: Verdict | None
    """Which student to ship; None without students."""
    status: Status
    """How the search ended; `interrupted` where there is no summary.json."""
    remaining: int
    """Trials and confirmations that had not ended then."""
    reason: str | None
    """Why there is no student: the most frequent reason for failed trials."""
    planned: int | None
    """Number of trials that the search was planned to have; None while it has not ended."""
    latency_on: str
    """The device on which latencies were measured; empty while the search has not ended."""
    trials: pd.DataFrame
    """trials.csv: one row per training, with a column for each hyperparameter. Empty before it is written."""
    evaluations: pd.DataFrame
    """evaluations.csv: one row per evaluation of a training, on the split that selects. Empty before it is written."""

    @property
    def task(self) -> str:
        """The name of the task."""
        return str(self.search["data"]["task"]["name"])

    @property
    def score(self) -> str:
        """Whether the score is the `first` of the task's metrics or the `mean` of all."""
        return str(self.search["data"]["task"]["score"])

    @property
    def demo(self) -> bool:
        """Whether the data is the synthetic demo corpus."""
        return bool(self.record["demo"])

    @property
    def search(self) -> dict[str, Any]:
        """The configuration of the search, fields as in `config.SearchConfig`."""
        search: dict[str, Any] = self.record["search"]
        return search

    @property
    def methods(self) -> list[Any]:
        """The methods of the search, ordered as `config.METHODS`."""
        return sorted((stage["method"] for stage in self.search["stages"]), key=METHODS.index)

    @property
    def kept(self) -> dict[str, tuple[str, list[str]]]:
        """For each method whose stage keeps values: the method they are from, and the names of the parameters."""
        stages = self.search["stages"]
        return {
            stage["method"]: (before["method"], stage["keep"]) for before, stage in pairwise(stages) if stage["keep"]
        }

    @property
    def name(self) -> str:
        """The name of the teacher, after which run folders are named."""
        return str(self.teacher["name"]) if self.teacher else self.folder.name

    @property
    def holdout(self) -> bool:
        """Whether a part of the training split selected hyperparameters and epochs, instead of the dev split."""
        return bool(self.search["data"]["select_on"] == "holdout")

    @property
    def selected_on(self) -> str:
        """The name of the examples that selected hyperparameters and epochs."""
        return "held-out slice" if self.holdout else "dev"

    def of_stage(self, stage: str) -> pd.DataFrame:
        """Returns the training runs of a stage, `search` or `confirm`."""
        return self.trials[self.trials["stage"] == stage]


def fixed_value(spec: dict[str, Any]) -> Any:
    """Returns the value of a hyperparameter that is the same for all students; None where there are several.

    Args:
        spec: Its description in run.json.
    """
    values = spec.get("values", ())
    return values[0] if len(values) == 1 and "when" not in spec else None


def is_run(folder: Path) -> bool:
    """Returns whether a folder holds records of a run."""
    return any((folder / name).is_file() for name in (RUN, SUMMARY, TRIALS))


def read_run(folder: Path, tolerance: float | None = None) -> Run:
    """Reads a run folder.

    Args:
        folder: Of the run.
        tolerance: By how many points the student to ship may fall short of the teacher; None: what the search had.

    Raises:
        UserError: When a record is damaged or missing; names the file.
    """
    folder = folder.resolve()
    record = _read_record(folder)
    summary = _read_summary(folder) if (folder / SUMMARY).exists() else None
    for name in (TRIALS, EVALUATIONS):
        if summary is not None and not (folder / name).exists():
            raise UserError(f"{folder} is damaged (no {name} beside its {SUMMARY}); restore the file")
    trials = _table(folder / TRIALS, _TRIAL_COLUMNS)
    students = summary["students"] if summary else []
    usual = "finished" if summary else "interrupted"  # earlier versions recorded no status
    ending: dict[str, Any] = {"status": usual, **(summary or {})}
    return Run(
        folder=folder,
        record=record,
        settings=tuple(name for name in record["space"] if name in trials),
        teacher=summary["teacher"] if summary else None,
        students=sorted(students, key=lambda student: (student["layers"], METHODS.index(student["method"]))),
        verdict=verdict_of(summary, tolerance) if summary else None,
        status=ending["status"],
        remaining=ending.get("remaining", 0),
        reason=ending.get("reason"),
        planned=summary["planned"] if summary else None,
        latency_on=summary["latency_on"] if summary else "",
        trials=trials,
        evaluations=_table(folder / EVALUATIONS, _EVALUATION_COLUMNS),
    )


def verdict_of(summary: dict[str, Any], tolerance: float | None = None) -> Verdict | None:
    """Returns the verdict of a run.

    Args:
        summary: Content of summary.json.
        tolerance: In points; None: what the search had.
    """
    if tolerance is None:
        tolerance = float(summary.get("tolerance", DEFAULT_TOLERANCE))
    return choose_student(summary["students"], summary["teacher"], tolerance)


def finished_run(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the content of run.json and summary.json of a run whose search has ended.

    Raises:
        UserError: When the folder is no run folder, its search has not ended, or a record is damaged.
    """
    if not (run_dir / RUN).is_file():
        raise UserError(f"{run_dir}: no {RUN} there; give the folder of a run, for example results/MRPC/minilm")
    record = _read_record(run_dir)
    if not (run_dir / SUMMARY).is_file():
        command = continuing_command(record)
        raise UserError(f"{run_dir}: its search has not ended, so it has no students; continue it with: {command}")
    return record, _read_summary(run_dir)


def continuing_command(record: dict[str, Any]) -> str:
    """Returns the command that continues a run: that of its start, without `--new`, which would begin another.

    Args:
        record: Content of run.json.
    """
    return " ".join(word for word in record["provenance"]["command"].split(" ") if word != "--new")


def find_student(run_dir: Path, summary: dict[str, Any], layers: int, method: str) -> dict[str, Any]:
    """Returns the record of one student.

    Args:
        run_dir: Named in the error.
        summary: Content of summary.json.
        layers: Depth of the student.
        method: Method of the student.

    Raises:
        UserError: When the run has no such student; lists those it has.
    """
    students: dict[tuple[str, int], dict[str, Any]] = {
        (student["method"], student["layers"]): student for student in summary["students"]
    }
    if (method, layers) not in students:
        there = students_text(summary["students"])
        raise UserError(f"--layers {layers} --method {method}: {run_dir} has no such student; it has {there}")
    return students[method, layers]


def students_text(students: Sequence[dict[str, Any]]) -> str:
    """Returns the depths of the students of each method: `pkd: 1, 2; kd: 1, 2`."""
    depths: dict[str, list[str]] = {}
    for student in sorted(students, key=lambda student: (-METHODS.index(student["method"]), student["layers"])):
        depths.setdefault(student["method"], []).append(str(student["layers"]))
    return "; ".join(f"{method}: {', '.join(those)}" for method, those in depths.items()) or "none"


def data_folder(run_dir: Path, record: dict[str, Any]) -> Path:
    """Returns the data folder of a run, which run.json records relative to the run folder. It may be gone."""
    return (run_dir.resolve() / str(record["data_from_here"])).resolve()


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a CSV table with one line per row; a column that only some rows have is empty in the others."""
    write_text(path, pd.DataFrame(rows).to_csv(index=False))


def read_rows(path: Path) -> pd.DataFrame:
    """Reads a table written by `write_rows`; empty when there is no such file or it has no rows.

    Raises:
        UserError: When the file is no such table.
    """
    try:
        return pd.read_csv(path)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return pd.DataFrame()
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it, or start another run with --new") from error


def _read_record(folder: Path) -> dict[str, Any]:
    if not (folder / RUN).exists():
        raise UserError(f"{folder} is damaged (no {RUN}); restore the file, or move the folder elsewhere")
    record = read_json(folder / RUN)
    _check(folder / RUN, _absent(record, _RUN_KEYS))
    return record


def _read_summary(folder: Path) -> dict[str, Any]:
    summary = read_json(folder / SUMMARY)
    absent = _absent(summary, _SUMMARY_KEYS)
    if not absent:
        absent = list(dict.fromkeys(name for each in summary["students"] for name in _absent(each, _STUDENT_KEYS)))
    _check(folder / SUMMARY, absent)
    return summary


def _table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Reads a table that must have these columns; a table without rows is given them."""
    table = read_rows(path)
    if table.empty:
        return pd.DataFrame(columns=[*columns])
    _check(path, [name for name in columns if name not in table])
    return table


def _absent(record: Any, keys: Iterable[str]) -> list[str]:
    """Returns the dotted keys that a record does not have."""

    def has(value: Any, names: list[str]) -> bool:
        return not names or (isinstance(value, dict) and names[0] in value and has(value[names[0]], names[1:]))

    return [key for key in keys if not has(record, key.split("."))]


def _check(path: Path, absent: Sequence[str]) -> None:
    if absent:
        raise UserError(f"{path} is damaged (no {', '.join(absent)}); restore it, or start another run with --new")
