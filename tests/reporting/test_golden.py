"""Reports in full, as Markdown; what stands first and is concluded in a few kinds of runs.

After a wanted change: python tests/reporting/test_golden.py
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from recorded_run import write_run

from pkd_tune.config import SearchStage
from pkd_tune.files import read_json, write_json
from pkd_tune.reporting.document import markdown
from pkd_tune.reporting.run import read_run
from pkd_tune.reporting.run_details import run_details
from pkd_tune.reporting.run_report import results

GOLDEN = Path(__file__).with_name("golden")
SMALL: dict[str, Any] = {"trials": 6, "control_trials": 4, "methods": ("pkd", "kd")}
STAGES = (SearchStage(method="kd"), SearchStage(method="pkd", keep=("temperature", "alpha")))
SEVEN = ("billing", "card lost", "<other>", "refund", "login", "fees", "transfer")


def whole(folder: Path) -> str:
    """Returns the whole report of a run with everything: a failed, an interrupted and several stopped trials."""
    run = read_run(write_run(folder))
    return markdown([*results(run), *run_details(run)])


def staged_grid(folder: Path) -> str:
    """Returns the whole report of a grid in two stages, as of paper.toml."""
    run = read_run(write_run(folder, task="RTE", teacher_layers=12, depths=(3, 6), grid=STAGES))
    return markdown([*results(run), *run_details(run)])


def results_of(folder: Path, **arguments: Any) -> str:
    """Returns what stands before the notes in the report of a small run."""
    return before_notes(write_run(folder, **{**SMALL, **arguments}))


def before_notes(run: Path) -> str:
    return markdown(results(read_run(run))).split("\n## Notes")[0]


def interrupted(folder: Path) -> str:
    """Returns what stands before the notes in the report of a run that was stopped before its confirmations."""
    write_run(folder, **SMALL, seeds=0)
    for name, edit in (("summary.json", {"planned": 24}), ("run.json", {})):
        record = read_json(folder / name) | edit
        if name == "run.json":
            record["search"]["seeds"] = 3
        write_json(folder / name, record)
    return before_notes(folder)


CASES: dict[str, Callable[[Path], str]] = {
    "report": whole,
    "one_clear_winner": lambda folder: results_of(folder, tolerance=12.0),
    "no_distinguishable_winner": lambda folder: results_of(folder, depths=(2,), seed=2),
    "none_within_tolerance": lambda folder: results_of(folder, depths=(2,), methods=("pkd",)),
    "regression": lambda folder: results_of(folder, task="STS-B", depths=(2,)),
    "seven_classes": lambda folder: results_of(folder, task="RTE", depths=(2,), labels=SEVEN),
    "interrupted": interrupted,
    "staged_grid": staged_grid,
}


@pytest.mark.parametrize("name", CASES)
def test_the_report_is_as_it_was(tmp_path: Path, name: str) -> None:
    assert CASES[name](tmp_path / "run" / "minilm") == (GOLDEN / f"{name}.md").read_text(encoding="utf-8")


if __name__ == "__main__":
    for case, write in CASES.items():
        with tempfile.TemporaryDirectory() as temporary:
            (GOLDEN / f"{case}.md").write_text(write(Path(temporary) / "run" / "minilm"), encoding="utf-8")
