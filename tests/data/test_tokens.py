"""Tokenised splits and the Arrow files that store them, with a tiny tokenizer."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from glue_files import ID, PAIRS, WORDS, of_hub, offline, words, write_hub, write_tsv

from pkd_tune.config import UserError
from pkd_tune.data import tokens
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features

MRPC, RTE, COLA = TASKS["MRPC"], TASKS["RTE"], TASKS["CoLA"]


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
    np.testing.assert_array_equal(labels, np.array([3.8, 1.25, 3.8], np.float32))
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
    kinds = [array.dtype.name for array in (train.input_ids, train.offsets, train.first_lengths, train.labels)]
    assert kinds == ["int32", "int64", "int32", "int64"]


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
    monkeypatch.setattr(tokens, "_CHUNK", 3)
    parts = load_features(MRPC, tmp_path / "parts", model_dir, 16)
    assert {name: split.key for name, split in whole.items()} == {name: split.key for name, split in parts.items()}


def test_a_second_load_neither_tokenises_nor_imports_a_tokenizer(tmp_path: Path, model_dir: Path) -> None:
    write_tsv(MRPC, tmp_path)
    first = load_features(MRPC, tmp_path, model_dir, 16)
    code = f"""
import sys
from pathlib import Path
from pkd_tune.data.loading import (load_features)
from pkd_tune.data.glue import (TASKS)
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
    from_hub = load_features(of_hub(MRPC, hub), tmp_path / "none", model_dir, 16)
    load_features(of_hub(MRPC, hub), tmp_path / "none", model_dir, 16)
    assert len(list((tmp_path / "none" / "data_feat" / "MRPC").iterdir())) == 1
    # The same tokens have the same key wherever they come from, so that teacher outputs can be shared.
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

    # Another tokenizer that gives the same tokens gives the same split.
    other_tokenizer = load_features(MRPC, tmp_path, longer_vocabulary(model_dir, tmp_path / "longer"), 16)
    assert len(list(builds.iterdir())) == 3
    assert {name: split.key for name, split in other_tokenizer.items()} == {
        name: split.key for name, split in first.items()
    }

    text = (folder / "dev.tsv").read_text()
    (folder / "dev.tsv").write_text(text.replace("\n0\t", "\n1\t", 1))
    other_label = load_features(MRPC, tmp_path, model_dir, 16)
    assert len(list(builds.iterdir())) == 4
    assert other_label["dev"].key != first["dev"].key
    assert other_label["train"].key == first["train"].key


def test_the_key_follows_tokens_boundaries_labels_and_order(tmp_path: Path, model_dir: Path) -> None:
    # Special tokens inside the text let two splits differ in nothing but a boundary.
    rows = {
        "first": [("a [SEP] b", "c", 1), ("d", "e", 0)],
        "a token": [("a [SEP] b", "d", 1), ("d", "e", 0)],
        "a sentence boundary": [("a", "b [SEP] c", 1), ("d", "e", 0)],
        "a label": [("a [SEP] b", "c", 0), ("d", "e", 0)],
        "the order": [("d", "e", 0), ("a [SEP] b", "c", 1)],
        "long first": [("a", "b [SEP] [CLS] a [SEP] b", 1), ("a", "b", 1)],
        "an example boundary": [("a", "b", 1), ("a", "b [SEP] [CLS] a [SEP] b", 1)],
    }
    keys = set()
    for name, examples in rows.items():
        write_tsv(MRPC, tmp_path / name, {**PAIRS, "train": examples})
        keys.add(load_features(MRPC, tmp_path / name, model_dir, 16)["train"].key)
    assert len(keys) == len(rows)


def test_a_process_hashes_each_file_once(tmp_path: Path, model_dir: Path) -> None:
    folder = write_tsv(MRPC, tmp_path)
    load_features(MRPC, tmp_path, model_dir, 16)
    hashed = (tokens._verify.cache_info().misses, tokens._file_hash.cache_info().misses)
    for _ in range(3):
        load_features(MRPC, tmp_path, model_dir, 16)
    assert (tokens._verify.cache_info().misses, tokens._file_hash.cache_info().misses) == hashed
    later(folder / "dev.tsv")
    load_features(MRPC, tmp_path, model_dir, 16)
    assert tokens._file_hash.cache_info().misses == hashed[1] + 1


def later(path: Path) -> None:
    """Sets a file's modification time to one that the clock cannot have given it yet."""
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))


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
    later(path)
    with caplog.at_level(logging.WARNING, logger="pkd_tune"):
        after = words(load_features(MRPC, tmp_path, model_dir, 16)["train"])
    (record,) = [record for record in caplog.records if record.name.startswith("pkd_tune")]
    assert str(path) in record.getMessage()
    assert after == before
    assert path.read_bytes() == whole
    caplog.clear()
    load_features(MRPC, tmp_path, model_dir, 16)
    assert not [record for record in caplog.records if record.name.startswith("pkd_tune")]


def test_without_verification_only_a_file_that_cannot_be_read_is_built_again(tmp_path: Path, model_dir: Path) -> None:
    write_tsv(MRPC, tmp_path)
    before = words(load_features(MRPC, tmp_path, model_dir, 16)["train"])
    (path,) = (tmp_path / "data_feat" / "MRPC").glob("*/train.arrow")
    change_a_token(path)
    later(path)
    assert words(load_features(MRPC, tmp_path, model_dir, 16, verify=False)["train"]) != before
    cut_short(path)
    assert words(load_features(MRPC, tmp_path, model_dir, 16, verify=False)["train"]) == before


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
from pkd_tune.data.loading import (load_features)
from pkd_tune.data.glue import (TASKS)
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
    with pytest.raises(UserError, match=r"model has no tokenizer: none of tokenizer\.json, vocab\.txt"):
        load_features(MRPC, tmp_path, tmp_path / "model", 16)


@pytest.mark.parametrize(
    ("max_length", "rule"), [(0, "at least 8"), (7, "at least 8"), (33, "at most 32, the limit of .*")]
)
def test_a_length_the_model_cannot_take_is_refused(tmp_path: Path, model_dir: Path, max_length: int, rule: str) -> None:
    write_tsv(MRPC, tmp_path)
    with pytest.raises(UserError, match=f"max_length must be {rule}, but got {max_length}"):
        load_features(MRPC, tmp_path, model_dir, max_length)


def test_a_data_dir_that_cannot_be_written_is_one_line(tmp_path: Path, model_dir: Path) -> None:
    write_tsv(MRPC, tmp_path)
    (tmp_path / "data_feat").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="--data-dir must be writable"):
        load_features(MRPC, tmp_path, model_dir, 16)
