"""Writers of tiny files of any task, as TSV and as the hub lays them out, and the vocabulary they use."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pkd_tune.config import Layout, Task
from pkd_tune.data.tokens import Split

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "e", '"', ".", "z", "##z"]
ID = {word: number for number, word in enumerate(WORDS)}
PAIRS = {
    "train": [("a b", "c", 1), ('" a .', "d d d", 0), ("e", "e", 1)],
    "dev": [("b b", "a", 0), ("c", "c c", 1)],
    "test": [("d", "e", 0), ("a a a", "b", 0)],
}
VALUES = (1.25, 3.8)
"""The label of a regression task where a class task has class 0 or 1; only the first is a number of base two."""
Rows = dict[str, list[tuple[str, str, int]]]


def layout_of(task: Task, split: str) -> Layout:
    """The columns of a GLUE task's TSV file."""
    layout = task.split(split).layout
    assert layout is not None
    return layout


def hub_config(task: Task) -> str:
    """The configuration of a GLUE task in the hub's dataset."""
    assert task.hub is not None
    assert task.hub.config is not None
    return task.hub.config


def rows_of(task: Task) -> Rows:
    """Rows for each of a task's splits; a part's second split has those of the first backwards."""
    return {split.name: PAIRS[split.part][:: -1 if split.suffix else 1] for split in task.splits}


def write_tsv(task: Task, data_dir: Path, rows: Rows | None = None) -> Path:
    """Writes <data_dir>/data_raw/<TASK>/ from (sentence1, sentence2, class id) rows."""
    folder = data_dir / "data_raw" / task.name
    folder.mkdir(parents=True, exist_ok=True)
    for split, examples in (rows or rows_of(task)).items():
        layout = layout_of(task, split)
        lines = [] if layout.header is None else ["\t".join(layout.header)]
        for number, (first, second, label) in enumerate(examples):
            cells = [str(number)] * (len(layout.header) if layout.header else 4)
            cells[layout.sentence1] = first
            if layout.sentence2 is not None:
                cells[layout.sentence2] = second
            if layout.label is not None:
                cells[layout.label] = f"{VALUES[label]:.3f}" if task.regression else task.raw_labels[label]
            lines.append("\t".join(cells))
        (folder / f"{task.split(split).file}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_hub(task: Task, folder: Path, rows: Rows | None = None) -> Path:
    """Writes a dataset repository as the hub has them: a README with configs, and a parquet file per split."""
    (folder / hub_config(task)).mkdir(parents=True, exist_ok=True)
    classes = "".join(f"\n          '{number}': {name}" for number, name in enumerate(task.labels))
    label = f"\n      dtype:\n        class_label:\n          names:{classes.replace('          ', '            ')}"
    features_yaml = "".join(f"\n    - name: {column}\n      dtype: string" for column in task.text)
    features_yaml += f"\n    - name: label{chr(10) + '      dtype: float32' if task.regression else label}"
    features_yaml += "\n    - name: idx\n      dtype: int32"
    files = ""
    for split, examples in (rows or rows_of(task)).items():
        hub_split, unlabelled = task.split(split).hub, layout_of(task, split).label is None
        sentences = list(zip(*[example[:2] for example in examples], strict=True))
        columns: dict[str, object] = dict(zip(task.text, map(list, sentences), strict=False))
        labels = [VALUES[example[2]] if task.regression else example[2] for example in examples]
        kind = pa.float32() if task.regression else pa.int64()
        columns["label"] = pa.array([-1] * len(examples) if unlabelled else labels, kind)
        # MRPC's idx on the hub is not the row number either.
        columns["idx"] = pa.array([7 * number + 3 for number in range(len(examples))], pa.int32())
        pq.write_table(pa.table(columns), folder / hub_config(task) / f"{hub_split}-00000-of-00001.parquet")
        files += f"\n  - split: {hub_split}\n    path: {hub_config(task)}/{hub_split}-*"
    (folder / "README.md").write_text(
        f"---\ndataset_info:\n- config_name: {hub_config(task)}\n  features:{features_yaml}\n"
        f"configs:\n- config_name: {hub_config(task)}\n  data_files:{files}\n---\n",
        encoding="utf-8",
    )
    return folder


def of_hub(task: Task, folder: Path) -> Task:
    """Returns the task with its dataset in a local folder."""
    assert task.hub is not None
    return replace(task, hub=replace(task.hub, repository=str(folder)))


def words(split: Split) -> list[str]:
    return [
        " ".join(WORDS[token] for token in split.input_ids[start:end])
        for start, end in zip(split.offsets[:-1], split.offsets[1:], strict=True)
    ]


def offline(code: str, tmp_path: Path, **environment: str) -> str:
    """Runs code in a fresh process whose hub is a closed port, and returns what it printed."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    variables = {
        **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        "HF_HOME": str(tmp_path / "hf_home"),
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        **environment,
    }
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_DATASETS_CACHE", "TRANSFORMERS_OFFLINE"):
        if name not in environment:
            variables.pop(name, None)
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
