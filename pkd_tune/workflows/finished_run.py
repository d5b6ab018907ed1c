"""What a search leaves, for Python: its trials as a table, and its students as models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pkd_tune.config import Method, UserError
from pkd_tune.files import RUN, SUMMARY, expanded, read_json
from pkd_tune.reporting.formatting import plural
from pkd_tune.reporting.run import Status, read_run, students_text, verdict_of


@dataclass(frozen=True, slots=True)
class Student:
    """The best student of a depth and method."""

    folder: Path
    """A Hugging Face model folder."""
    record: dict[str, Any]
    """What summary.json says of it: scores, settings, size, latency."""

    @property
    def score(self) -> float:
        """The task's score on dev, times 100, of the exported model."""
        return float(self.record["metrics"]["score"])

    @property
    def settings(self) -> dict[str, Any]:
        """The settings it was trained with."""
        return dict(self.record["settings"])

    def load(self) -> tuple[Any, Any]:
        """Returns the model and its tokenizer, as plain `transformers` loads them from the folder."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        model = AutoModelForSequenceClassification.from_pretrained(self.folder, use_safetensors=True)
        return model, AutoTokenizer.from_pretrained(self.folder)


@dataclass(frozen=True, slots=True)
class SearchRun:
    """The folder of a search: what `pkd_tune.search()` and `pkd_tune.load_run()` return."""

    folder: Path
    status: Status = "finished"
    """How the search ended; of one that still runs, or was killed, `interrupted`."""
    remaining: int = 0
    """Trials that were still to be run when the search was interrupted, or at its time limit."""
    reason: str | None = None
    """Why there is no student: the most frequent reason for failed trials."""

    @property
    def trials(self) -> pd.DataFrame:
        """Every training, one row each: the columns of trials.csv."""
        return read_run(self.folder).trials

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json: the teacher and the best student of each depth and method.

        Raises:
            UserError: While the search has not ended.
        """
        if not (self.folder / SUMMARY).is_file():
            raise UserError(f"{self.folder}: its search has not ended, so there is no student yet; run it again")
        return read_json(self.folder / SUMMARY)

    @property
    def students(self) -> list[Student]:
        """The best student of each depth and method."""
        return [Student(self.folder / record["folder"], record) for record in self.summary["students"]]

    @property
    def report(self) -> Path:
        """The report as HTML, which a browser shows."""
        return self.folder / "report.html"

    def best(self, layers: int | None = None, method: Method | None = None) -> Student:
        """Returns the student that the report names: the smallest that is shown to be nearly as good as the teacher, or
        the one that comes nearest; or that of a depth or method.

        Args:
            layers: Its depth; None: of all.
            method: How it was trained; None: of all, or `pkd` where a depth is given.

        Raises:
            UserError: When the run has no such student; says which it has.
        """
        summary = self.summary
        wanted = "pkd" if method is None and layers is not None else method
        students = [
            record
            for record in summary["students"]
            if wanted in (None, record["method"]) and layers in (None, record["layers"])
        ]
        verdict = verdict_of({**summary, "students": students})
        if verdict is None:
            asked = " with ".join(filter(None, [wanted, None if layers is None else plural(layers, "layer")]))
            has = students_text(summary["students"])
            raise UserError(f"{self.folder} has no student for {asked}; it has (method: layers) {has}")
        return Student(self.folder / verdict.student["folder"], verdict.student)


def load_run(folder: Path | str) -> SearchRun:
    """Returns the run in a folder, for example `results/MRPC/bert-base-uncased`.

    Raises:
        UserError: When the folder holds no run, or a damaged one.
    """
    path = expanded(folder).resolve()
    if not (path / RUN).is_file():
        raise UserError(f"{path}: no {RUN} there; give the folder of a run, for example results/MRPC/demo")
    run = read_run(path)
    return SearchRun(path, run.status, run.remaining, run.reason)
