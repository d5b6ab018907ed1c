"""Generates the data of `--demo`: a synthetic corpus in the format of a GLUE task, or one with a task file and CSV
files, and a small BERT model folder.

With it a search runs on a new machine without downloads. The files are used in the same way as real data and a real
pretrained model. `world` generates sentences, `corpora` the examples and files of each task, `model` the model folder;
this module writes them to disk, atomically.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from pkd_tune.config import Task, UserError
from pkd_tune.data.demo.corpora import TICKETS, write_corpus
from pkd_tune.data.demo.model import write_model
from pkd_tune.data.glue import glue_task, is_glue
from pkd_tune.data.task_file import describe_file, task_of_data
from pkd_tune.files import LOCK_MODE, expanded, read_json, write_json

_MODEL = "models/pretrained/demo"
_GENERATOR = ("__init__", "world", "corpora", "model")


def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read_record(path: Path) -> dict[str, Any]:
    """Returns the content of demo.json: what each folder was `made` by, and the hashes of all `files`.

    Raises:
        UserError: When it is damaged.
    """
    if not path.exists():
        return {"made": {}, "files": {}}
    try:
        return read_json(path, ("made", "files"))
    except UserError as error:
        raise UserError(
            f"{path} is damaged; delete {path.parent}, and the same command writes the demo again"
        ) from error


def _is_complete(data_dir: Path, folder: str, record: dict[str, Any], made_by: dict[str, Any]) -> bool:
    """Returns whether a folder was made by this seed and generator, and none of its files has changed since."""
    return record["made"].get(folder) == made_by and all(
        (data_dir / name).exists() and _digest(data_dir / name) == digest
        for name, digest in record["files"].items()
        if name.startswith(f"{folder}/")
    )


def _generate(staged: Path, folder: str, seed: int) -> dict[str, str]:
    """Generates the files of one folder below a temporary folder, and returns their names and hashes."""
    (staged / folder).mkdir(parents=True)
    if folder == _MODEL:
        write_model(staged / folder, seed)
    else:
        for name, content in write_corpus(Path(folder).name, seed=seed).items():
            (staged / folder / name).write_bytes(content)
    return {f"{folder}/{path.name}": _digest(path) for path in sorted((staged / folder).iterdir())}


def write_demo(data_dir: Path, task: str = "MRPC", *, seed: int = 0) -> Path:
    """Writes the demo corpus of a task and the demo model below a folder, unless they exist already.

    Several tasks can share the folder. `demo.json` in it records the seed and the generator's version for the model and
    each task, and the hash of each file. It is written first, so that files of an interrupted run are recognised as the
    demo's.

    Args:
        data_dir: Receives data_raw/<TASK>/ and models/pretrained/demo/.
        task: GLUE name of the task, or `TICKETS` for a task file with CSV files. For AX, which is predicted by
            a model of MNLI, MNLI is written as well.
        seed: Determines all examples and weights; equal seeds give equal bytes. The model is shared by the tasks, so a
            different seed replaces it.

    Returns:
        The model folder.

    Raises:
        UserError: A file that would be written exists and is not the demo's.
    """
    folders = [_MODEL, *(f"data_raw/{name}" for name in (("MNLI", "AX") if task == "AX" else (task,)))]
    made_by = {"seed": seed, "generator": _digest(*(Path(__file__).with_name(f"{name}.py") for name in _GENERATOR))}
    record_path = data_dir / "demo.json"

    def missing(record: dict[str, Any]) -> list[str]:
        return [folder for folder in folders if not _is_complete(data_dir, folder, record, made_by)]

    if not missing(_read_record(record_path)):
        return data_dir / _MODEL
    data_dir.mkdir(parents=True, exist_ok=True)
    # Locked, because searches that start at the same time add their tasks to the same record. The temporary folder is
    # on the file system of the result, so that finished files can be moved there.
    with (
        FileLock(data_dir / ".demo.lock", mode=LOCK_MODE),
        tempfile.TemporaryDirectory(dir=data_dir, prefix=".demo-") as temporary,
    ):
        record, staged = _read_record(record_path), Path(temporary)
        made: dict[str, str] = {}
        for folder in missing(record):
            made |= _generate(staged, folder, seed)
            record["made"][folder] = made_by
        foreign = [data_dir / name for name in made if (data_dir / name).exists() and name not in record["files"]]
        if foreign:
            raise UserError(
                *(f"{path} was not written by --demo: choose another --data-dir, or move it" for path in foreign)
            )
        record["files"] |= made
        write_json(record_path, record)
        for name in made:
            (data_dir / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged / name, data_dir / name)
    return data_dir / _MODEL


def demo_task(data_dir: Path, name: str) -> Task:
    """Writes the demo of a task below a folder, unless it exists, and returns the task.

    Args:
        data_dir: Receives data_raw/<TASK>/ and models/pretrained/demo/.
        name: Of a GLUE task, or `TICKETS`: seven made-up classes in a task file and CSV files.

    Raises:
        UserError: There is no demo of this task, or a file that would be written exists and is not the demo's.
    """
    if name != TICKETS and not is_glue(name) and (name.startswith("hub:") or expanded(name).exists()):
        raise UserError(
            f"--task {name}: --demo has data of its own, for the tasks of GLUE and for {TICKETS}; leave out --demo"
        )
    if name == TICKETS:
        write_demo(data_dir, TICKETS)
        return task_of_data(describe_file(data_dir / "data_raw" / TICKETS / f"{TICKETS}.toml"))
    task = glue_task(name)
    write_demo(data_dir, task.name)
    return task
