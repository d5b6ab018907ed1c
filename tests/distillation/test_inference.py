from pathlib import Path

import pytest
import torch
from tiny import write_task

from pkd_tune.config import UserError
from pkd_tune.data.batches import Batch
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.distillation.inference import TeacherSimilarity, evaluate
from pkd_tune.distillation.teacher_outputs import TeacherOutputs
from pkd_tune.encoders.modeling import Output, load_classifier

TEACHER = TeacherOutputs(
    logits_NC=torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 4.0]]),
    cls_NLH=torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]]).half().repeat(4, 1, 1),
    row_of_example_N=torch.tensor([3, 2, 1, 0]),
)


def seen(ids: list[int], logits: list[list[float]], states: list[list[float]]) -> tuple[Batch, Output]:
    ids_B = torch.tensor(ids)
    empty = torch.zeros(len(ids), 1)
    batch = Batch(ids_B, empty, empty, empty, torch.zeros(len(ids)))
    return batch, Output(torch.tensor(logits), torch.tensor(states).repeat(len(ids), 1, 1))


def test_agreement_and_cosines_are_means_over_all_batches_joined_by_example_id() -> None:
    similarity = TeacherSimilarity({"dev": TEACHER}, imitated=(2,))
    states = [[3.0, 4.0], [9.0, 9.0]]  # two layers; the upper one imitates nothing
    similarity.update("dev", *seen([0], [[0.0, 1.0]], states))  # row 3 of the teacher has class 1: they agree
    similarity.update("dev", *seen([3, 2], [[0.0, 1.0], [0.0, 1.0]], states))  # rows 0 and 1 have classes 0 and 1
    numbers = similarity.compute()
    assert numbers == {"agreement": pytest.approx(100 * 2 / 3), "cosine_1": pytest.approx(0.8)}
    similarity.update("dev", *seen([1], [[1.0, 0.0]], [[0.0, 5.0], [1.0, 1.0]]))  # another evaluation
    assert similarity.compute() == {"agreement": 100.0, "cosine_1": pytest.approx(1.0)}


def test_there_is_no_agreement_for_regression_and_no_cosine_between_widths() -> None:
    similarity = TeacherSimilarity({"dev": TEACHER}, imitated=(2,))
    similarity.update("dev", *seen([0, 1], [[1.0], [2.0]], [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]))
    assert similarity.compute() == {}


def test_a_split_without_labels_cannot_be_evaluated(tiny_data: Path) -> None:
    tiny = tiny_data / "models/pretrained/tiny"
    splits = load_features(TASKS["MRPC"], tiny_data, tiny, 32)
    model = load_classifier(tiny, TASKS["MRPC"].labels, seed=0)
    with pytest.raises(UserError, match="MRPC test has no labels"):
        evaluate(model, {"test": splits["test"]}, TASKS["MRPC"])


def test_a_task_with_two_dev_splits_is_scored_on_both(tiny_data: Path, tmp_path: Path) -> None:
    task = TASKS["MNLI"]
    write_task(task, tmp_path)
    splits = load_features(task, tmp_path, tiny_data / "models/pretrained/tiny", 32)
    model = load_classifier(tiny_data / "models/pretrained/tiny", task.labels, seed=0)
    metrics, predicted = evaluate(model, {name: splits[name] for name in task.dev_splits}, task)
    assert list(metrics) == ["accuracy", "accuracy_mm", "score"]
    assert list(predicted) == ["dev", "dev_mm"]
    labels = splits["dev_mm"].labels
    assert metrics["accuracy_mm"] == pytest.approx(100 * (predicted["dev_mm"] == labels).mean())
