"""Which student of a run is meant, from the run's records alone."""

from pathlib import Path
from typing import Any

from pkd_tune.config import UserError
from pkd_tune.files import RUN, SUMMARY, read_json


def finished_run(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns run.json and summary.json of a run that has students.

    Raises:
        UserError: When the folder is no run's, or its search has not got as far as a summary.
    """
    if not (run_dir / RUN).is_file():
        raise UserError(f"{run_dir}: no {RUN} there; give the folder of a run, for example results/MRPC/minilm")
    run = read_json(run_dir / RUN)
    if not (run_dir / SUMMARY).is_file():
        command = run["provenance"]["command"]
        raise UserError(f"{run_dir}: its search has not ended, so there is no student yet; finish it with: {command}")
    return run, read_json(run_dir / SUMMARY)


def data_folder(run_dir: Path, run: dict[str, Any]) -> Path:
    """Returns where the data of a run lies, from whatever folder that is asked.

    run.json has the way from the run's folder. Where that leads nowhere (the run was moved, or an older release made
    it), what it says of the folder is tried from each folder that the run lies in, then from the working folder.
    """
    here, recorded = run_dir.resolve(), Path(run["search"]["data"]["data_dir"])
    places: list[Path] = [here / run["data_from_here"]] if "data_from_here" in run else []
    places += [folder / recorded for folder in (*here.parents, Path.cwd())]
    return next((place for place in places if place.is_dir()), places[-1]).resolve()


def find_student(run_dir: Path, summary: dict[str, Any], layers: int, method: str) -> dict[str, Any]:
    """Returns what a summary says of one student.

    Args:
        run_dir: Named in the error.
        summary: Of summary.json.
        layers: The student's depth.
        method: How it was trained; `pkd` where the summary says nothing of it.

    Raises:
        UserError: When there is none such; says which there are.
    """
    students: dict[tuple[str, int], dict[str, Any]] = {
        (student.get("method", "pkd"), student["layers"]): student for student in summary["students"]
    }
    if (method, layers) not in students:
        there = ", ".join(f"{name} with {depth}" for name, depth in students) or "none"
        raise UserError(f"--layers {layers} --method {method}: {run_dir} has no such student; it has {there}")
    return students[method, layers]
