"""Sources of examples and their tokenised form, with real files and a tiny tokenizer of its own vocabulary."""

import logging
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pkd_tune.config import UserError
from pkd_tune.glue import features
from pkd_tune.glue.data import RawSplit, Split, check_source, load_features, load_raw, row_count_notes
from pkd_tune.glue.tasks import TASKS, Task, majority_score

MRPC, RTE, COLA = TASKS["MRPC"], TASKS["RTE"], TASKS["CoLA"]
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
REAL_GLUE = Path(__file__).parents[3] / "shared" / "glue"


def rows_of(task: Task) -> Rows:
    """Rows for each of a task's splits; a part's second split has those of the first backwards."""
    return {split.name: PAIRS[split.part][:: -1 if split.suffix else 1] for split in task.splits}


def write_tsv(task: Task, data_dir: Path, rows: Rows | None = None) -> Path:
    """Writes <data_dir>/data_raw/<TASK>/ from (sentence1, sentence2, class id) rows."""
    folder = data_dir / "data_raw" / task.name
    folder.mkdir(parents=True, exist_ok=True)
    for split, examples in (rows or rows_of(task)).items():
        layout = task.layout(split)
        lines = [] if layout.header is None else ["\t".join(layout.header)]
        for number, (first, second, label) in enumerate(examples):
            cells = [str(number)] * (len(layout.header) if layout.header else 4)
            cells[layout.sentence1] = first
            if layout.sentence2 is not None:
                cells[layout.sentence2] = second
            if layout.label is not None:
                cells[layout.label] = f"{VALUES[label]:.3f}" if task.regression else task.raw_labels[label]
            lines.append("\t".join(cells))
        (folder / f"{task.split(split).file}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_hub(task: Task, folder: Path, rows: Rows | None = None) -> Path:
    """Writes a dataset repository as the hub has them: a README with configs, and a parquet file per split."""
    (folder / task.hub_name).mkdir(parents=True, exist_ok=True)
    classes = "".join(f"\n          '{number}': {name}" for number, name in enumerate(task.labels))
    label = f"\n      dtype:\n        class_label:\n          names:{classes.replace('          ', '            ')}"
    features_yaml = "".join(f"\n    - name: {column}\n      dtype: string" for column in task.hub_sentences)
    features_yaml += f"\n    - name: label{chr(10) + '      dtype: float32' if task.regression else label}"
    features_yaml += "\n    - name: idx\n      dtype: int32"
    files = ""
    for split, examples in (rows or rows_of(task)).items():
        hub_split, unlabelled = task.split(split).hub, task.layout(split).label is None
        sentences = list(zip(*[example[:2] for example in examples], strict=True))
        columns: dict[str, object] = dict(zip(task.hub_sentences, map(list, sentences), strict=False))
        labels = [VALUES[example[2]] if task.regression else example[2] for example in examples]
        kind = pa.float32() if task.regression else pa.int64()
        columns["label"] = pa.array([-1] * len(examples) if unlabelled else labels, kind)
        # MRPC's idx on the hub is not the row number either.
        columns["idx"] = pa.array([7 * number + 3 for number in range(len(examples))], pa.int32())
        pq.write_table(pa.table(columns), folder / task.hub_name / f"{hub_split}-00000-of-00001.parquet")
        files += f"\n  - split: {hub_split}\n    path: {task.hub_name}/{hub_split}-*"
    (folder / "README.md").write_text(
        f"---\ndataset_info:\n- config_name: {task.hub_name}\n  features:{features_yaml}\n"
        f"configs:\n- config_name: {task.hub_name}\n  data_files:{files}\n---\n",
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fast tokenizer whose tokenizer.json truncates to 4 and pads to 64, as published ones may."""
    from transformers import BertTokenizerFast

    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=32)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def dataset_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps the datasets library's cache of a test inside that test's folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")
    return tmp_path / "hf_cache"


def words(split: Split) -> list[str]:
    return [
        " ".join(WORDS[token] for token in split.input_ids[start:end])
        for start, end in zip(split.offsets[:-1], split.offsets[1:], strict=True)
    ]


# Sources


def test_check_source_accepts_a_whole_folder(tmp_path: Path) -> None:
    write_tsv(MRPC, tmp_path)
    assert check_source(MRPC, tmp_path) == []


def test_check_source_reports_every_file_at_once(tmp_path: Path) -> None:
    folder = write_tsv(MRPC, tmp_path)
    (folder / "train.tsv").write_text("")
    (folder / "dev.tsv").unlink()
    (folder / "test.tsv").write_text("index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\ta\n")
    problems = check_source(MRPC, tmp_path)
    assert [problem.split(":")[0].split(" ")[0] for problem in problems] == [
        str(folder / name) for name in ("train.tsv", "dev.tsv", "test.tsv")
    ]
    with pytest.raises(UserError) as caught:
        load_raw(MRPC, tmp_path)
    assert list(caught.value.problems) == problems


def test_a_folder_of_files_is_never_replaced_by_the_hub(tmp_path: Path, dataset_cache: Path) -> None:
    hub = write_hub(MRPC, tmp_path / "hub")
    write_tsv(MRPC, tmp_path / "data")
    (tmp_path / "data" / "data_raw" / "MRPC" / "dev.tsv").unlink()
    with pytest.raises(UserError, match=r"dev\.tsv is missing"):
        load_raw(MRPC, tmp_path / "data", str(hub))


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_folder_and_hub_give_the_same_examples(task: Task, tmp_path: Path, dataset_cache: Path) -> None:
    write_tsv(task, tmp_path / "data")
    hub = write_hub(task, tmp_path / "hub")
    from_folder = load_raw(task, tmp_path / "data")
    from_hub = load_raw(task, tmp_path / "none", str(hub))
    assert from_folder == from_hub
    assert list(from_hub) == list(task.row_counts)
    for split, examples in rows_of(task).items():
        firsts, seconds, class_ids = map(list, zip(*examples, strict=True))
        assert from_hub[split].sentence1 == firsts
        assert from_hub[split].sentence2 == (seconds if len(task.hub_sentences) == 2 else None)
        labels = [float(np.float32(VALUES[class_id])) for class_id in class_ids] if task.regression else class_ids
        assert from_hub[split].labels == (None if task.layout(split).label is None else labels)


@pytest.mark.parametrize("task", [TASKS["STS-B"], TASKS["MNLI"]], ids=lambda task: task.name)
def test_a_hub_dataset_with_placeholder_labels_in_dev_is_refused(
    task: Task, tmp_path: Path, dataset_cache: Path
) -> None:
    hub = write_hub(task, tmp_path / "hub")
    (path,) = (hub / task.hub_name).glob(f"{task.split('dev').hub}-*.parquet")
    table = pq.read_table(path)
    column = table.column_names.index("label")
    kind = table.schema.field("label").type
    pq.write_table(table.set_column(column, "label", pa.array([1, -1], kind)), path)
    with pytest.raises(UserError, match=rf"row 1 of '{task.split('dev').hub}' has the label -1(\.0)?, expected 0 to"):
        load_raw(task, tmp_path, str(hub))


def test_a_hub_dataset_with_other_classes_is_refused(tmp_path: Path, dataset_cache: Path) -> None:
    hub = write_hub(RTE, tmp_path / "hub")
    readme = (hub / "README.md").read_text()
    (hub / "README.md").write_text(readme.replace("'0': entailment", "'0': entailed"))
    with pytest.raises(
        UserError, match=r"classes \['entailed', 'not_entailment'\] in 'train', expected \['entailment'"
    ):
        load_raw(RTE, tmp_path, str(hub))


def test_a_hub_dataset_without_the_task_or_a_split_is_one_line(tmp_path: Path, dataset_cache: Path) -> None:
    hub = write_hub(RTE, tmp_path / "hub", {split: PAIRS[split] for split in ("train", "test")})
    with pytest.raises(UserError, match="has no split 'validation', only train, test"):
        load_raw(RTE, tmp_path, str(hub))
    with pytest.raises(UserError, match="'mrpc' cannot be loaded") as caught:
        load_raw(MRPC, tmp_path, str(hub))
    assert "\n" not in str(caught.value)


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


def test_without_folder_hub_or_cache_there_is_one_line_and_no_waiting(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from pkd_tune.config import UserError
from pkd_tune.glue.data import check_source, load_raw
from pkd_tune.glue.tasks import TASKS
started = time.perf_counter()
(problem,) = check_source(TASKS["MRPC"], Path({str(tmp_path)!r}))
try:
    load_raw(TASKS["MRPC"], Path({str(tmp_path)!r}))
except UserError as error:
    assert error.problems == (problem,)
assert time.perf_counter() - started < 2
assert not {{"torch", "transformers", "datasets"}} & set(sys.modules)
print(problem)
"""
    problem = offline(code, tmp_path)
    assert str(tmp_path / "data_raw" / "MRPC") in problem
    assert "--data-dir" in problem
    assert "--demo" in problem


def test_a_cached_hub_dataset_is_used_when_the_hub_is_out_of_reach(tmp_path: Path) -> None:
    # The cache of the real repository, filled from a folder laid out like it.
    hub = write_hub(MRPC, tmp_path / "glue")
    code = f"""
import time
from pathlib import Path
import datasets
target = Path({str(tmp_path)!r}) / "hf_home/datasets/nyu-mll___glue/mrpc/0.0.0/0123456789abcdef"
datasets.load_dataset_builder({str(hub)!r}, "mrpc").download_and_prepare(str(target))
from pkd_tune.glue.data import check_source, load_raw
from pkd_tune.glue.tasks import TASKS
started = time.perf_counter()
assert check_source(TASKS["MRPC"], Path("nowhere")) == []
raw = load_raw(TASKS["MRPC"], Path("nowhere"))
assert time.perf_counter() - started < 5
print(raw["train"].sentence1, raw["dev"].labels, raw["test"].labels)
"""
    assert offline(code, tmp_path).strip() == f"{[first for first, _, _ in PAIRS['train']]} [0, 1] None"


def test_row_count_notes_name_each_split_that_differs() -> None:
    raw = {name: RawSplit([""] * count, [""] * count, None) for name, count in MRPC.row_counts.items()}
    assert row_count_notes(MRPC, raw) == []
    assert row_count_notes(MRPC, {**raw, "train": raw["dev"]}) == [
        "MRPC train has 408 rows; the official split has 3,668"
    ]


# Tokenised splits


def test_features_are_the_tokens_of_each_example(tmp_path: Path, model_dir: Path) -> None:
    write_tsv(MRPC, tmp_path)
    splits = load_features(MRPC, tmp_path, model_dir, 16)
    assert list(splits) == ["train", "dev", "test"]
    train = splits["train"]
    # Neither the truncation to 4 nor the padding to 64 of the tokenizer's own file may show.
    assert words(train) == [
        "[CLS] a b [SEP] c [SEP]",
        '[CLS] " a . [SEP] d d d [SEP]',
        "[CLS] e [SEP] e [SEP]",
    ]
    assert (train.name, len(train)) == ("train", 3)
    assert train.lengths.tolist() == [6, 9, 5]
    assert train.first_lengths.tolist() == [4, 5, 3]
    assert train.labels is not None
    assert train.labels.tolist() == [1, 0, 1]
    assert splits["dev"].labels is not None
    assert splits["test"].labels is None


def test_features_of_single_sentences(tmp_path: Path, model_dir: Path) -> None:
    write_tsv(COLA, tmp_path)
    train = load_features(COLA, tmp_path, model_dir, 16)["train"]
    assert words(train)[0] == "[CLS] a b [SEP]"
    assert train.first_lengths.tolist() == train.lengths.tolist() == [4, 5, 3]


def test_features_of_a_task_with_two_dev_splits(tmp_path: Path, model_dir: Path) -> None:
    write_tsv(TASKS["MNLI"], tmp_path)
    splits = load_features(TASKS["MNLI"], tmp_path, model_dir, 16)
    assert list(splits) == ["train", "dev", "dev_mm", "test", "test_mm"]
    assert [splits[name].name for name in splits] == list(splits)
    assert words(splits["dev_mm"]) == words(splits["dev"])[::-1]
    assert words(splits["test_mm"]) == words(splits["test"])[::-1]


def test_labels_of_a_regression_are_fp32_and_part_of_the_key(tmp_path: Path, model_dir: Path) -> None:
    task = TASKS["STS-B"]
    folder = write_tsv(task, tmp_path)
    first = load_features(task, tmp_path, model_dir, 16)
    labels = first["train"].labels
    assert labels is not None
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, np.float32([3.8, 1.25, 3.8]))
    assert first["test"].labels is None
    text = (folder / "dev.tsv").read_text()
    (folder / "dev.tsv").write_text(text.replace("3.800", "3.801"))
    other = load_features(task, tmp_path, model_dir, 16)
    assert other["dev"].key != first["dev"].key
    assert other["train"].key == first["train"].key


def test_a_pair_that_is_too_long_loses_the_end_of_its_longer_sentence(tmp_path: Path, model_dir: Path) -> None:
    write_tsv(MRPC, tmp_path, {**PAIRS, "train": [("a b", "c d e c d e c d e", 1), ("a b c d e a b c", "d", 0)]})
    train = load_features(MRPC, tmp_path, model_dir, 8)["train"]
    assert words(train) == ["[CLS] a b [SEP] c d e [SEP]", "[CLS] a b c d [SEP] d [SEP]"]
    assert train.first_lengths.tolist() == [4, 6]


def test_arrays_are_read_only_views_of_the_file(tmp_path: Path, model_dir: Path) -> None:
    write_tsv(MRPC, tmp_path)
    before = pa.total_allocated_bytes()
    train = load_features(MRPC, tmp_path, model_dir, 16)["train"]
    assert pa.total_allocated_bytes() == before
    assert train.labels is not None
    for array in (train.input_ids, train.offsets, train.first_lengths, train.labels):
        assert not array.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    kinds = (train.input_ids.dtype, train.offsets.dtype, train.first_lengths.dtype, train.labels.dtype)
    assert kinds == (np.int32, np.int64, np.int32, np.int64)


def test_the_file_is_one_record_batch_that_any_arrow_reader_can_join_by_example_id(
    tmp_path: Path, model_dir: Path
) -> None:
    write_tsv(MRPC, tmp_path)
    load_features(MRPC, tmp_path, model_dir, 16)
    (path,) = (tmp_path / "data_feat" / "MRPC").glob("*/test.arrow")
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    assert reader.num_record_batches == 1
    batch = reader.get_batch(0)
    assert batch.schema.names == ["example_id", "input_ids", "first_length", "label"]
    assert batch.column("example_id").to_pylist() == [0, 1]
    assert batch.column("input_ids").to_pylist()[0] == [ID[word] for word in ("[CLS]", "d", "[SEP]", "e", "[SEP]")]
    assert batch.column("label").to_pylist() == [None, None]
    assert not list(path.parent.glob("*.tmp"))


def test_chunks_join_without_a_seam(tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {split: [("a " * (1 + i % 5), "b " * (1 + i % 3), i % 2) for i in range(7)] for split in PAIRS}
    write_tsv(MRPC, tmp_path / "whole", rows)
    write_tsv(MRPC, tmp_path / "parts", rows)
    whole = load_features(MRPC, tmp_path / "whole", model_dir, 16)
    monkeypatch.setattr(features, "_CHUNK", 3)
    parts = load_features(MRPC, tmp_path / "parts", model_dir, 16)
    assert {name: split.key for name, split in whole.items()} == {name: split.key for name, split in parts.items()}


def test_a_second_load_neither_tokenises_nor_imports_a_tokenizer(tmp_path: Path, model_dir: Path) -> None:
    write_tsv(MRPC, tmp_path)
    first = load_features(MRPC, tmp_path, model_dir, 16)
    code = f"""
import sys
from pathlib import Path
from pkd_tune.glue.data import load_features
from pkd_tune.glue.tasks import TASKS
splits = load_features(TASKS["MRPC"], Path({str(tmp_path)!r}), Path({str(model_dir)!r}), 16)
assert not {{"transformers", "tokenizers", "torch", "datasets", "pandas"}} & set(sys.modules)
print(splits["train"].key, splits["train"].input_ids.tolist())
"""
    assert offline(code, tmp_path).strip() == f"{first['train'].key} {first['train'].input_ids.tolist()}"


def test_features_are_built_from_a_hub_dataset_and_found_again(
    tmp_path: Path, model_dir: Path, dataset_cache: Path
) -> None:
    hub = write_hub(MRPC, tmp_path / "hub")
    write_tsv(MRPC, tmp_path / "data")
    from_hub = load_features(MRPC, tmp_path / "none", model_dir, 16, str(hub))
    load_features(MRPC, tmp_path / "none", model_dir, 16, str(hub))
    assert len(list((tmp_path / "none" / "data_feat" / "MRPC").iterdir())) == 1
    # The same tokens have the same key wherever they come from, so a teacher's outputs can be shared.
    from_folder = load_features(MRPC, tmp_path / "data", model_dir, 16)
    assert {name: split.key for name, split in from_hub.items()} == {
        name: split.key for name, split in from_folder.items()
    }


def longer_vocabulary(model_dir: Path, folder: Path) -> Path:
    from transformers import BertTokenizerFast

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join([*WORDS, "f"]) + "\n")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    return folder


def test_source_tokenizer_and_length_each_make_another_build(tmp_path: Path, model_dir: Path) -> None:
    folder = write_tsv(MRPC, tmp_path)
    builds = tmp_path / "data_feat" / "MRPC"
    first = load_features(MRPC, tmp_path, model_dir, 16)
    other_length = load_features(MRPC, tmp_path, model_dir, 8)
    assert len(list(builds.iterdir())) == 2
    # No example of dev is longer than 8 tokens, so its tokens are the same and so is its key.
    assert other_length["dev"].key == first["dev"].key
    assert other_length["train"].key != first["train"].key

    other_tokenizer = load_features(MRPC, tmp_path, longer_vocabulary(model_dir, tmp_path / "longer"), 16)
    assert len(list(builds.iterdir())) == 3
    assert np.array_equal(other_tokenizer["dev"].input_ids, first["dev"].input_ids)
    assert other_tokenizer["dev"].key != first["dev"].key

    text = (folder / "dev.tsv").read_text()
    (folder / "dev.tsv").write_text(text.replace("\n0\t", "\n1\t", 1))
    other_label = load_features(MRPC, tmp_path, model_dir, 16)
    assert len(list(builds.iterdir())) == 4
    assert other_label["dev"].key != first["dev"].key
    assert other_label["train"].key == first["train"].key


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def change_a_token(path: Path) -> None:
    content = path.read_bytes()
    token = np.array([ID["c"], ID["[SEP]"], ID["[CLS]"]], dtype=np.int32).tobytes()
    assert content.count(token) == 1
    path.write_bytes(content.replace(token, np.array([ID["d"], ID["[SEP]"], ID["[CLS]"]], dtype=np.int32).tobytes()))


def another_file(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.schema([pa.field("x", pa.int64())])) as writer:
        writer.write_batch(pa.record_batch({"x": pa.array([1])}))


@pytest.mark.parametrize("damage", [cut_short, empty, change_a_token, another_file], ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_built_again_with_a_warning(
    tmp_path: Path, model_dir: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    write_tsv(MRPC, tmp_path)
    before = words(load_features(MRPC, tmp_path, model_dir, 16)["train"])
    (path,) = (tmp_path / "data_feat" / "MRPC").glob("*/train.arrow")
    whole = path.read_bytes()
    damage(path)
    with caplog.at_level(logging.WARNING, logger="pkd_tune"):
        after = words(load_features(MRPC, tmp_path, model_dir, 16)["train"])
    (record,) = [record for record in caplog.records if record.name.startswith("pkd_tune")]
    assert str(path) in record.getMessage()
    assert after == before
    assert path.read_bytes() == whole
    caplog.clear()
    load_features(MRPC, tmp_path, model_dir, 16)
    assert not [record for record in caplog.records if record.name.startswith("pkd_tune")]


def test_a_missing_split_is_built_again_and_the_others_are_left_alone(tmp_path: Path, model_dir: Path) -> None:
    write_tsv(MRPC, tmp_path)
    load_features(MRPC, tmp_path, model_dir, 16)
    (folder,) = (tmp_path / "data_feat" / "MRPC").iterdir()
    kept = (folder / "train.arrow").stat().st_mtime_ns
    (folder / "dev.arrow").unlink()
    assert len(load_features(MRPC, tmp_path, model_dir, 16)["dev"]) == 2
    assert (folder / "train.arrow").stat().st_mtime_ns == kept


def test_a_process_that_waited_uses_what_the_other_built(tmp_path: Path, model_dir: Path) -> None:
    """Holds the build lock, lets a second process wait for it, puts finished files in place, and lets go."""
    from filelock import FileLock

    write_tsv(MRPC, tmp_path)
    load_features(MRPC, tmp_path, model_dir, 16)
    (folder,) = (tmp_path / "data_feat" / "MRPC").iterdir()
    finished = {path: path.read_bytes() for path in folder.glob("*.arrow")}
    for path in finished:
        path.unlink()
    code = f"""
import sys
from pathlib import Path
from pkd_tune.glue.data import load_features
from pkd_tune.glue.tasks import TASKS
print("started", flush=True)
load_features(TASKS["MRPC"], Path({str(tmp_path)!r}), Path({str(model_dir)!r}), 16)
print("transformers" in sys.modules)
"""
    with FileLock(folder / "build.lock"):
        waiting = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "started\n"
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
        for path, content in finished.items():
            path.write_bytes(content)
    rest, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert rest == "False\n"


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    write_tsv(MRPC, tmp_path)
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match=r"model has no tokenizer: neither tokenizer\.json nor vocab\.txt"):
        load_features(MRPC, tmp_path, tmp_path / "model", 16)


@pytest.mark.parametrize("max_length", [0, 7, 33])
def test_a_length_the_model_cannot_take_is_refused(tmp_path: Path, model_dir: Path, max_length: int) -> None:
    write_tsv(MRPC, tmp_path)
    with pytest.raises(UserError, match=f"max_length must be from 8 to the model's 32, but got {max_length}"):
        load_features(MRPC, tmp_path, model_dir, max_length)


def test_a_data_dir_that_cannot_be_written_is_one_line(tmp_path: Path, model_dir: Path) -> None:
    write_tsv(MRPC, tmp_path)
    (tmp_path / "data_feat").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="--data-dir must be writable"):
        load_features(MRPC, tmp_path, model_dir, 16)


# The real files, where this machine has them


@pytest.mark.parametrize(("task", "positives"), [(MRPC, 279), (RTE, 131), (COLA, 721)], ids=["MRPC", "RTE", "CoLA"])
def test_real_files_have_their_official_rows_and_class_counts(task: Task, positives: int, tmp_path: Path) -> None:
    if not (REAL_GLUE / task.name).is_dir():
        pytest.skip(f"no real GLUE files at {REAL_GLUE / task.name}")
    (tmp_path / "data_raw").mkdir()
    (tmp_path / "data_raw" / task.name).symlink_to(REAL_GLUE / task.name)
    assert check_source(task, tmp_path) == []
    raw = load_raw(task, tmp_path)
    assert {name: len(split) for name, split in raw.items()} == task.row_counts
    assert row_count_notes(task, raw) == []
    assert raw["dev"].labels is not None
    assert sum(raw["dev"].labels) == positives
    assert raw["train"].labels is not None
    assert Counter(raw["train"].labels).most_common(1)[0][0] == task.filler
    if task is MRPC:
        assert (REAL_GLUE / "MRPC" / "train.tsv").read_bytes().startswith(b"\xef\xbb\xbf")
        assert raw["train"].sentence1[0].startswith('Amrozi accused his brother , whom he called " the witness "')
        scores = majority_score(task, {"dev": raw["dev"].labels})
        assert (round(scores["accuracy"], 1), round(scores["f1"], 1)) == (68.4, 81.2)
    if task is COLA:
        assert raw["train"].sentence1[0].startswith("Our friends won't buy this analysis")
        assert not (REAL_GLUE / "CoLA" / "dev.tsv").read_bytes().endswith(b"\n")
