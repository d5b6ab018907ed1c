import pytest
import torch

from pkd_tune.data.batches import Batch
from pkd_tune.distillation.inference import TeacherSimilarity
from pkd_tune.distillation.teacher_outputs import TeacherOutputs
from pkd_tune.encoders.modeling import Output

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
    similarity.update("dev", *seen([1], [[1.0, 0.0]], [[0.0, 5.0], [1.0, 1.0]]))
    assert similarity.compute() == {
        "agreement": 100.0,
        "cosine_1": pytest.approx(1.0),
    }  # the first evaluation is forgotten


def test_there_is_no_agreement_for_regression_and_no_cosine_between_widths() -> None:
    similarity = TeacherSimilarity({"dev": TEACHER}, imitated=(2,))
    similarity.update("dev", *seen([0, 1], [[1.0], [2.0]], [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]))
    assert similarity.compute() == {}
