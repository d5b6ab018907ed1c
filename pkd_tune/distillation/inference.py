"""Predictions and metrics of a model on whole splits, and its similarity to its teacher.

Shape suffixes: N examples of a split, B examples of a batch, C classes, L layers, K imitated layers, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pkd_tune.config import Precision, Task
from pkd_tune.data.batches import Batch
from pkd_tune.data.metrics import predictions, score
from pkd_tune.data.tokens import Split
from pkd_tune.encoders.inference import outputs
from pkd_tune.encoders.modeling import Output

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pkd_tune.distillation.teacher_outputs import TeacherOutputs


class TeacherSimilarity:
    """How similar a student's outputs on the dev splits are to its teacher's, accumulated batch by batch."""

    def __init__(self, teacher_dev: Mapping[str, TeacherOutputs], imitated: tuple[int, ...]) -> None:
        """Starts without batches.

        Args:
            teacher_dev: Teacher outputs by dev split.
            imitated: The teacher layer that each student layer 1 .. K imitates, counted from 1.
        """
        self.teacher_dev = teacher_dev
        self.imitated = imitated
        self._examples = 0
        self._agreeing = 0.0
        self._cosine_sums_K = torch.zeros(len(imitated))
        self._classes = 0
        self._same_width = False

    def update(self, split: str, batch: Batch, output: Output) -> None:
        """Adds a batch of a dev split, given by name, and the student's output."""
        teacher, ids_B = self.teacher_dev[split], batch.example_ids_B
        logits_BC = output.logits_BC.float().cpu()
        self._examples += len(ids_B)
        self._classes = logits_BC.shape[1]
        self._agreeing += (logits_BC.argmax(-1) == teacher.logits(ids_B).argmax(-1)).sum().item()
        self._same_width = output.cls_BLH.shape[-1] == teacher.cls_NLH.shape[-1]
        if self._same_width and self.imitated:
            student_BKH: Tensor = output.cls_BLH[:, : len(self.imitated)].float().cpu()
            teacher_BKH = teacher.cls(ids_B, self.imitated).float()
            self._cosine_sums_K += F.cosine_similarity(student_BKH, teacher_BKH, dim=-1).sum(0)

    def compute(self) -> dict[str, float]:
        """Returns the figures over all batches since the last call.

        `agreement`: share of examples for which both predict the same class, times 100; not for regression.
        `cosine_1` to `cosine_K`: mean cosine similarity of the student's [CLS] state after a layer and the teacher's
        after the layer it imitates; not where their widths differ.
        """
        figures = {"agreement": 100 * self._agreeing / self._examples} if self._classes > 1 else {}
        if self._same_width:
            cosines_K = (self._cosine_sums_K / self._examples).tolist()
            figures |= {f"cosine_{layer}": cosine for layer, cosine in enumerate(cosines_K, start=1)}
        self._examples, self._agreeing = 0, 0.0
        self._cosine_sums_K.zero_()
        return figures


def evaluate(
    model: PreTrainedModel,
    dev: Mapping[str, Split],
    task: Task,
    *,
    precision: Precision = "auto",
    similarity: TeacherSimilarity | None = None,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Returns the task's metrics on its dev splits, times 100, and the predictions for each split.

    Raises:
        UserError: When a split has no labels.
    """
    predicted = {
        name: predictions(task, predict(model, split, precision=precision, similarity=similarity).numpy())
        for name, split in dev.items()
    }
    return score(task, predicted, {name: split.labels for name, split in dev.items()}), predicted


def predict(
    model: PreTrainedModel,
    split: Split,
    *,
    precision: Precision = "auto",
    similarity: TeacherSimilarity | None = None,
    show: Callable[[int], object] = lambda examples: None,
) -> Tensor:
    """Returns the logits of every example in the order of example ids: (N, C), fp32, on the CPU.

    Args:
        model: Put in evaluation mode, and left in it.
        split: Labels are not used.
        precision: Of matrix products; a plain reload of an exported model computes in fp32.
        similarity: Updated with every batch.
        show: Called with the number of examples of every batch.
    """
    logits_NC = torch.empty(len(split), model.config.num_labels)
    for batch, output in outputs(model, split, precision=precision):
        logits_NC[batch.example_ids_B] = output.logits_BC.float().cpu()
        if similarity is not None:
            similarity.update(split.name, batch, output)
        show(len(batch.example_ids_B))
    return logits_NC
