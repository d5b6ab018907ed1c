"""Texts without labels: what is read of a file, what is refused, and where they stand in the training split."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pkd_tune.config import UserError
from pkd_tune.data.examples import RawSplit
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.data.tokens import take
from pkd_tune.data.unlabeled import load_unlabeled, read_unlabeled, with_unlabeled

MRPC, COLA = TASKS["MRPC"], TASKS["CoLA"]
PAIRS = {"sentence1": ["red green .", "blue ."], "sentence2": ["old same .", "new other ."], "label": ["?", ""]}


def pairs(folder: Path, name: str) -> Path:
    path, table = folder / name, pd.DataFrame(PAIRS)
    match path.suffix:
        case ".parquet":
            table.to_parquet(path)
        case ".jsonl":
            table.to_json(path, orient="records", lines=True)
        case suffix:
            table.to_csv(path, index=False, sep="," if suffix == ".csv" else "\t")
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_the_text_columns_of_a_table_are_read_and_its_labels_are_not(tmp_path: Path, name: str) -> None:
    raw = read_unlabeled(MRPC, pairs(tmp_path, name))
    assert raw == RawSplit(PAIRS["sentence1"], PAIRS["sentence2"], None)


def test_a_text_file_has_one_text_a_line(tmp_path: Path) -> None:
    path = tmp_path / "more.txt"
    path.write_bytes("One, \u2028 two.\r\n\n  \nThree.\n".encode())
    assert read_unlabeled(COLA, path) == RawSplit(["One, \u2028 two.", "Three."], None, None)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "a.txt",
            "One.",
            "--unlabeled .*a.txt: a .txt file has one text a line, but an example of MRPC has two; give a ",
        ),
        ("a.doc", "One.", "--unlabeled .*a.doc: its name must end in one of .txt, .csv, "),
        ("a.csv", "sentence1,label\nOne.,1\n", "a.csv: no column 'sentence2', only 'sentence1', 'label'"),
        ("a.csv", "sentence1,sentence2\nOne.,Two.\n,\n", "a.csv:3: 'sentence1' and 'sentence2' are empty"),
        ("a.jsonl", '{"sentence1": "One.", "sentence2": 2}', "a.jsonl:1: 'sentence2' is 2; texts must be strings"),
        ("a.csv", "sentence1,sentence2\n", "a.csv is empty"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line_with_its_row(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says) as raised:
        read_unlabeled(MRPC, tmp_path / name)
    assert len(raised.value.problems) == 1


def test_they_stand_behind_the_labelled_examples_and_have_no_label(tiny_data: Path, tmp_path: Path) -> None:
    model = tiny_data / "models" / "pretrained" / "tiny"
    train = load_features(MRPC, tiny_data, model, 32)["train"]
    path = pairs(tmp_path, "a.csv")
    texts = load_unlabeled(MRPC, tmp_path, path, model, 32)
    assert texts.labels is None
    mixed = with_unlabeled(train, texts)
    n = len(train)
    assert len(mixed) == n + 2
    assert mixed.labelled is not None
    assert mixed.labelled.tolist() == [True] * n + [False] * 2
    for split, ids in ((train, np.arange(n)), (texts, np.array([n, n + 1]))):
        part = take(mixed, "part", ids)
        assert np.array_equal(part.input_ids, split.input_ids)
        assert np.array_equal(part.offsets, split.offsets)
        assert np.array_equal(part.first_lengths, split.first_lengths)
        assert part.labelled is not None
        assert part.labelled.all() == (split is train)
    assert mixed.key not in (train.key, texts.key)

    cached = next((tmp_path / "data_feat").rglob("unlabeled.arrow"))
    before = cached.stat().st_mtime_ns
    assert load_unlabeled(MRPC, tmp_path, path, model, 32).key == texts.key
    assert cached.stat().st_mtime_ns == before
    path.write_text(path.read_text().replace("blue", "large"))
    assert load_unlabeled(MRPC, tmp_path, path, model, 32).key != texts.key
