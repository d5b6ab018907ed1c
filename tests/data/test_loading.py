"""Sources of examples: TSV folders, the hub and its cache."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from glue_files import PAIRS, VALUES, hub_config, layout_of, of_hub, offline, rows_of, write_hub, write_tsv
from tickets import TASK_FILE, ticket_rows, write_csv
from tiny import write_bert, write_task

from pkd_tune.config import Task, UserError
from pkd_tune.data.examples import RawSplit
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import check_source, hold_out, load_features, load_raw, selection_splits, source_notes
from pkd_tune.data.metrics import majority_score
from pkd_tune.data.task import find_task
from pkd_tune.data.tokens import Split

MRPC, RTE, COLA = TASKS["MRPC"], TASKS["RTE"], TASKS["CoLA"]
REAL_GLUE = Path(__file__).parents[3] / "shared" / "glue"


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


def test_a_missing_test_split_is_no_problem_unless_it_is_needed(tmp_path: Path) -> None:
    folder = write_tsv(MRPC, tmp_path)
    write_bert(tmp_path / "bert")
    whole = load_features(MRPC, tmp_path, tmp_path / "bert", 32)
    (folder / "test.tsv").unlink()
    assert check_source(MRPC, tmp_path) == []
    assert check_source(MRPC, tmp_path, needed=["dev"]) == []
    (problem,) = check_source(MRPC, tmp_path, needed=["test"])
    assert problem.startswith(f"{folder / 'test.tsv'} is missing; put the split there")
    raw = load_raw(MRPC, tmp_path)
    assert list(raw) == ["train", "dev"]
    assert [note.split()[1] for note in source_notes(MRPC, raw)] == ["train", "dev"]
    splits = load_features(MRPC, tmp_path, tmp_path / "bert", 32)
    assert {name: split.key for name, split in splits.items()} == {name: whole[name].key for name in ("train", "dev")}
    (folder / "dev.tsv").unlink()
    assert "dev.tsv is missing" in check_source(MRPC, tmp_path)[0]


def test_a_folder_of_files_is_never_replaced_by_the_hub(tmp_path: Path, dataset_cache: Path) -> None:
    hub = write_hub(MRPC, tmp_path / "hub")
    write_tsv(MRPC, tmp_path / "data")
    (tmp_path / "data" / "data_raw" / "MRPC" / "dev.tsv").unlink()
    with pytest.raises(UserError, match=r"dev\.tsv is missing"):
        load_raw(of_hub(MRPC, hub), tmp_path / "data")


@pytest.mark.parametrize("name", ["CoLA", "MRPC", "STS-B", "MNLI", "AX"])
def test_folder_and_hub_give_the_same_examples(name: str, tmp_path: Path, dataset_cache: Path) -> None:
    task = TASKS[name]
    write_tsv(task, tmp_path / "data")
    hub = write_hub(task, tmp_path / "hub")
    from_folder = load_raw(task, tmp_path / "data")
    from_hub = load_raw(of_hub(task, hub), tmp_path / "none")
    assert from_folder == from_hub
    assert list(from_hub) == list(task.row_counts)
    for split, examples in rows_of(task).items():
        firsts, seconds, class_ids = map(list, zip(*examples, strict=True))
        assert from_hub[split].sentence1 == firsts
        assert from_hub[split].sentence2 == (seconds if len(task.text) == 2 else None)
        labels = [float(np.float32(VALUES[class_id])) for class_id in class_ids] if task.regression else class_ids
        assert from_hub[split].labels == (None if layout_of(task, split).label is None else labels)


@pytest.mark.parametrize("task", [TASKS["STS-B"], TASKS["MNLI"]], ids=lambda task: task.name)
def test_a_hub_dataset_with_placeholder_labels_in_dev_is_refused(
    task: Task, tmp_path: Path, dataset_cache: Path
) -> None:
    hub = write_hub(task, tmp_path / "hub")
    (path,) = (hub / hub_config(task)).glob(f"{task.split('dev').hub}-*.parquet")
    table = pq.read_table(path)
    column = table.column_names.index("label")
    kind = table.schema.field("label").type
    pq.write_table(table.set_column(column, "label", pa.array([1, -1], kind)), path)
    with pytest.raises(
        UserError, match=rf"'{task.split('dev').hub}': row 1: 'label' is '?-1(\.0)?'?, (but|which is not)"
    ):
        load_raw(of_hub(task, hub), tmp_path)


def test_a_hub_dataset_with_other_classes_is_refused(tmp_path: Path, dataset_cache: Path) -> None:
    hub = write_hub(RTE, tmp_path / "hub")
    readme = (hub / "README.md").read_text()
    (hub / "README.md").write_text(readme.replace("'0': entailment", "'0': entailed"))
    with pytest.raises(
        UserError, match=r"classes \['entailed', 'not_entailment'\] in 'train', but needs \['entailment'"
    ):
        load_raw(of_hub(RTE, hub), tmp_path)


def test_a_hub_dataset_without_the_task_or_a_split_is_one_line(tmp_path: Path, dataset_cache: Path) -> None:
    hub = write_hub(RTE, tmp_path / "hub", {split: PAIRS[split] for split in ("train", "test")})
    with pytest.raises(UserError, match="has no split 'validation', only train, test"):
        load_raw(of_hub(RTE, hub), tmp_path)
    with pytest.raises(UserError, match="'mrpc' cannot be loaded") as caught:
        load_raw(of_hub(MRPC, hub), tmp_path)
    assert "\n" not in str(caught.value)


def test_without_folder_hub_or_cache_there_is_one_line_and_no_waiting(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from pkd_tune.config import (UserError)
from pkd_tune.data.loading import (check_source, load_raw)
from pkd_tune.data.glue import (TASKS)
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
    import datasets

    # The cache of the real repository, filled from a folder with the same layout.
    hub = write_hub(MRPC, tmp_path / "glue")
    cache = tmp_path / "hf_home" / "datasets" / "nyu-mll___glue" / "mrpc" / "0.0.0" / "0123456789abcdef"
    datasets.load_dataset_builder(str(hub), "mrpc", cache_dir=str(tmp_path / "cache")).download_and_prepare(str(cache))
    code = """
import time
from pathlib import Path
from pkd_tune.data.loading import check_source, load_raw
from pkd_tune.data.glue import TASKS
started = time.perf_counter()
assert check_source(TASKS["MRPC"], Path("nowhere")) == []
raw = load_raw(TASKS["MRPC"], Path("nowhere"))
assert time.perf_counter() - started < 10
print(raw["train"].sentence1, raw["dev"].labels, raw["test"].labels)
"""
    assert offline(code, tmp_path).splitlines() == [f"{[first for first, _, _ in PAIRS['train']]} [0, 1] None"]


def test_a_class_that_cannot_be_held_out_is_named_or_stays_in_train() -> None:
    labels = np.array([0] * 20 + [1] * 20 + [2])
    rest, held = hold_out(TASKS["MNLI"], labels, ("dev", "dev_mm"))
    assert 40 in rest
    assert sorted([*rest, *held["dev"], *held["dev_mm"]]) == list(range(41))
    assert {name: sorted(labels[rows]) for name, rows in held.items()} == {"dev": [0, 0, 1, 1], "dev_mm": [0, 0, 1, 1]}
    with pytest.raises(UserError, match=r"RTE: no dev split can be held out .* 'entailment' 9, 'not_entailment' 1\)"):
        hold_out(RTE, np.array([0] * 9 + [1]), ("dev",))


@pytest.mark.parametrize("counts", [(1000, 4), (5000, 4), (1000, 2), (900, 900, 3), (55, 45)])
def test_every_class_with_two_examples_is_in_both_parts(counts: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    rest, held = hold_out(TASKS["MNLI"], labels, ("dev",))
    parts = [np.bincount(labels[rows], minlength=len(counts)).tolist() for rows in (rest, held["dev"])]
    expected = [max(1, round(0.1 * count)) for count in counts]
    assert parts == [[count - part for count, part in zip(counts, expected, strict=True)], expected]
    assert sorted([*rest, *held["dev"]]) == list(range(len(labels)))
    assert held["dev"][-2] - held["dev"][0] > len(held["dev"])  # not the first examples


def test_a_file_that_becomes_another_split_is_read_again(tmp_path: Path, tiny_data: Path) -> None:
    """A test file named as dev, as where a note says that there is no dev split."""
    write_csv(tmp_path / "train.csv", ticket_rows(140))
    write_csv(tmp_path / "b.csv", ticket_rows(35, seed=1))
    tiny, sizes = tiny_data / "models/pretrained/tiny", []
    for second in ("test", "dev", "test"):
        described = TASK_FILE.replace('dev = "dev.csv"', f'{second} = "b.csv"')
        (tmp_path / "tickets.toml").write_text(described)
        splits = load_features(find_task(str(tmp_path / "tickets.toml")), tmp_path / "data", tiny, 32)
        sizes.append({name: len(split) for name, split in splits.items()})
    held = {"train": 126, "dev": 14, "test": 35}
    assert sizes == [held, {"train": 140, "dev": 35}, held]


def test_source_notes_name_each_split_that_differs() -> None:
    raw = {name: RawSplit([""] * count, [""] * count, None) for name, count in MRPC.row_counts.items()}
    assert source_notes(MRPC, raw) == []
    assert source_notes(MRPC, {**raw, "train": raw["dev"]}) == ["MRPC train has 408 rows; the official split has 3,668"]


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
    assert source_notes(task, raw) == []
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


@pytest.mark.parametrize("name", ["MRPC", "MNLI", "STS-B"])
def test_a_holdout_is_a_stratified_part_of_train_that_training_does_not_see(tmp_path: Path, name: str) -> None:
    task = TASKS[name]
    write_task(task, tmp_path, train=120)
    write_bert(tmp_path / "bert")
    splits = load_features(task, tmp_path, tmp_path / "bert", 32)
    assert selection_splits(task, splits, "dev").keys() == {"train", *task.dev_splits}
    chosen = selection_splits(task, splits, "holdout")
    assert {part: len(split) for part, split in chosen.items()} == {
        "train": 120 - 12 * len(task.dev_splits),
        **dict.fromkeys(task.dev_splits, 12),
    }

    def examples(split: Split) -> list[tuple[int, ...]]:
        assert split.labels is not None
        return [
            (*split.input_ids[start:end], first, label)
            for start, end, first, label in zip(
                split.offsets, split.offsets[1:], split.first_lengths, split.labels, strict=False
            )
        ]

    assert sorted(example for split in chosen.values() for example in examples(split)) == sorted(
        examples(splits["train"])
    )
    if not task.regression:
        whole, held = splits["train"].labels, chosen["dev"].labels
        assert whole is not None
        assert held is not None
        for label in range(task.outputs):
            assert abs((held == label).mean() - (whole == label).mean()) < 1 / 12
    assert len({split.key for split in (*chosen.values(), *splits.values())}) == len(chosen) + len(splits)
    again = selection_splits(task, splits, "holdout")
    assert {part: split.key for part, split in again.items()} == {part: split.key for part, split in chosen.items()}
