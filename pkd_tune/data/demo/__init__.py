"""Writes what `--demo` needs: a made-up corpus in a GLUE task's own format, and a small BERT folder.

So the main job runs on a fresh machine with no download. From these files onward nothing is special: they go through
the same code as real data and a real pretrained model. `world` has the words, `corpora` the examples of each task,
`formats` their files, `model` the BERT folder; this module puts them on disk, whole or not at all.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from pkd_tune.config import UserError
from pkd_tune.data.demo.formats import COLUMNS, write_corpus
from pkd_tune.data.demo.model import write_model

DEMO_TASKS = tuple(COLUMNS)
"""Every task that has a demo."""
_MODEL = "models/pretrained/demo"
_GENERATOR = ("__init__", "world", "corpora", "formats", "model")


def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read_record(path: Path) -> dict[str, Any]:
    """Returns what is known of the demo's folders: by whom each was `made`, and the hashes of all `files`."""
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {"made": record.get("made", {}), "files": record.get("files", {})}


def _files_in(folder: str, files: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in files.items() if name.startswith(f"{folder}/")}


def _is_complete(data_dir: Path, folder: str, record: dict[str, Any], made_by: dict[str, Any]) -> bool:
    """Whether a folder was made like this, and every file of it is still as it was then."""
    return record["made"].get(folder) == made_by and all(
        (data_dir / name).exists() and _digest(data_dir / name) == digest
        for name, digest in _files_in(folder, record["files"]).items()
    )


def _stage(staged: Path, folder: str, seed: int) -> dict[str, str]:
    """Makes the files of one folder below a temporary one, and returns their names and hashes."""
    (staged / folder).mkdir(parents=True)
    if folder == _MODEL:
        write_model(staged / folder, seed)
    else:
        for name, content in write_corpus(Path(folder).name, seed=seed).items():
            (staged / folder / name).write_bytes(content)
    return {f"{folder}/{path.name}": _digest(path) for path in sorted((staged / folder).iterdir())}


def write_demo(data_dir: Path, task: str = "MRPC", *, seed: int = 0) -> Path:
    """Writes a task's demo corpus and the demo's model below a folder, unless they are there already.

    Several tasks can share the folder. `demo.json` in it says which seed and which version of the generator made the
    model and each task's files, and what each file's hash is. It is written first, so that what a stopped run left half
    done is told from files of another origin.

    Args:
        data_dir: Gets data_raw/<TASK>/ and models/pretrained/demo/.
        task: As GLUE spells it, one of `DEMO_TASKS`. AX is predicted with an MNLI model, so MNLI is written with it.
        seed: Decides every example and every weight; the same seed gives the same bytes. The model is shared, so
            another seed than before replaces it.

    Returns:
        The model folder.

    Raises:
        UserError: A file that the demo would replace is there and is not the demo's.
    """
    folders = [_MODEL, *(f"data_raw/{name}" for name in (("MNLI", "AX") if task == "AX" else (task,)))]
    made_by = {"seed": seed, "generator": _digest(*(Path(__file__).with_name(f"{name}.py") for name in _GENERATOR))}
    record_path = data_dir / "demo.json"

    def missing(record: dict[str, Any]) -> list[str]:
        return [folder for folder in folders if not _is_complete(data_dir, folder, record, made_by)]

    if not missing(_read_record(record_path)):
        return data_dir / _MODEL
    data_dir.mkdir(parents=True, exist_ok=True)
    # The lock: two searches may start side by side, and each adds its task to the record.
    # The temporary folder is on the same disk as the result, so that each finished file takes its place in one step.
    with (
        FileLock(data_dir / ".demo.lock"),
        tempfile.TemporaryDirectory(dir=data_dir, prefix=".demo-") as temporary,
    ):
        record, staged = _read_record(record_path), Path(temporary)
        made: dict[str, str] = {}
        for folder in missing(record):
            made |= _stage(staged, folder, seed)
            record["made"][folder] = made_by
        foreign = [data_dir / name for name in made if (data_dir / name).exists() and name not in record["files"]]
        if foreign:
            raise UserError(*(f"{path} is not the demo's: use another data folder, or move it" for path in foreign))
        record["files"] |= made
        (staged / "demo.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        os.replace(staged / "demo.json", record_path)
        for name in made:
            (data_dir / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged / name, data_dir / name)
    return data_dir / _MODEL
