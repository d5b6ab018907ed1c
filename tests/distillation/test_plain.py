"""A given teacher is compared with plain transformers."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import write_model

from pkd_tune.config import UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features, load_raw
from pkd_tune.distillation.plain import check_plain
from pkd_tune.distillation.teacher import dev_metrics
from pkd_tune.encoders.folder import classifier_key
from pkd_tune.encoders.modeling import load_classifier, save_classifier

TASK = TASKS["MRPC"]
CPU = torch.device("cpu")


def change(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.fixture
def folder(tiny_data: Path, tmp_path: Path) -> Path:
    tiny = tiny_data / "models/pretrained/tiny"
    save_classifier(load_classifier(tiny, TASK.labels, seed=1), tiny, tmp_path / "tuned")
    return tmp_path / "tuned"


def check(folder: Path, data_dir: Path, given: Path | None = None) -> None:
    splits = load_features(TASK, data_dir, given or folder, 32)
    check_plain(TASK, folder, load_raw(TASK, data_dir), splits, 32, CPU)


@pytest.mark.parametrize("names", [("input_ids", "attention_mask"), ("input_ids", "token_type_ids", "attention_mask")])
def test_segment_ids_are_the_tokenizers_own(
    names: tuple[str, ...], folder: Path, tiny_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(folder / "tokenizer_config.json", model_input_names=names)
    check(folder, tiny_data)
    assert not caplog.records


def test_classes_in_another_order_are_the_same_teacher(folder: Path, tiny_data: Path) -> None:
    splits = load_features(TASK, tiny_data, folder, 32)
    before = dev_metrics(TASK, folder, splits, CPU)
    change(folder / "config.json", id2label=dict(enumerate(reversed(TASK.labels))))
    check(folder, tiny_data)
    turned = dev_metrics(TASK, folder, splits, CPU)
    assert turned["accuracy"] == pytest.approx(100 - before["accuracy"])  # of two classes
    assert classifier_key(folder, TASK.labels) != classifier_key(folder, TASK.labels[::-1])


def test_a_tokenizer_that_pads_at_the_start_explains_the_difference(
    folder: Path, tiny_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(folder / "tokenizer_config.json", padding_side="left")
    with caplog.at_level(logging.WARNING):
        check(folder, tiny_data)
    (message,) = (record.getMessage() for record in caplog.records)
    assert " in plain transformers on 40 dev examples, because padding_side in its tokenizer_config.json is" in message


def test_a_difference_without_a_reason_is_refused(folder: Path, tiny_data: Path) -> None:
    other = load_features(TASK, tiny_data, tiny_data / "models/pretrained/tiny", 12)
    with pytest.raises(UserError, match=r"scores .* here and .* in plain transformers on 40 dev examples, though they"):
        check_plain(TASK, folder, load_raw(TASK, tiny_data), other, 32, CPU)


def test_a_teacher_with_one_segment_id_is_compared_without(
    tiny_data: Path, tmp_path: Path, once: Callable[[str, Any], Path]
) -> None:
    start = write_model(tmp_path / "one", "bert", type_vocab_size=1)
    load_classifier(start, TASK.labels, seed=1).save_pretrained(tmp_path / "tuned")
    for path in start.glob("tokenizer*"):
        (tmp_path / "tuned" / path.name).write_bytes(path.read_bytes())
    check(tmp_path / "tuned", tiny_data)
