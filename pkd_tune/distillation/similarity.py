"""How like its teacher a student is on the dev splits.

Shape suffixes: B examples, C classes, K imitated layers, H hidden size.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pkd_tune.data.batches import Batch
from pkd_tune.distillation.teacher_outputs import TeacherOutputs
from pkd_tune.encoders.modeling import Output


class TeacherSimilarity:
    """Watches evaluations: how often both predict the same class, and how alike their [CLS] states are.

    Numbers it gives: `agreement`, the share of examples with the same most likely class, times 100 (none for a
    regression); and `cosine_1` to `cosine_K`, the mean cosine between the student's state after a layer and the
    teacher's after the layer it imitates (none where the widths differ).
    """

    def __init__(self, teacher_dev: Mapping[str, TeacherOutputs], imitated: tuple[int, ...]) -> None:
        self.teacher_dev = teacher_dev
        self.imitated = imitated
        self._examples = 0
        self._same = 0.0
        self._cosine_sums_K = torch.zeros(len(imitated))
        self._classes = 0
        self._comparable = False

    def see(self, split: str, batch: Batch, output: Output) -> None:
        """Takes in one batch of an evaluation."""
        teacher, ids_B = self.teacher_dev[split], batch.example_ids_B
        logits_BC = output.logits_BC.float().cpu()
        self._examples += len(ids_B)
        self._classes = logits_BC.shape[1]
        self._same += (logits_BC.argmax(-1) == teacher.logits(ids_B).argmax(-1)).sum().item()
        self._comparable = output.cls_BLH.shape[-1] == teacher.cls_NLH.shape[-1]
        if self._comparable and self.imitated:
            student_BKH: Tensor = output.cls_BLH[:, : len(self.imitated)].float().cpu()
            teacher_BKH = teacher.cls(ids_B, self.imitated).float()
            self._cosine_sums_K += F.cosine_similarity(student_BKH, teacher_BKH, dim=-1).sum(0)

    def read(self) -> dict[str, float]:
        """Returns the numbers of the evaluation that just ended, and starts anew."""
        numbers = {"agreement": 100 * self._same / self._examples} if self._classes > 1 else {}
        if self._comparable:
            cosines_K = (self._cosine_sums_K / self._examples).tolist()
            numbers |= {f"cosine_{layer}": cosine for layer, cosine in enumerate(cosines_K, start=1)}
        self._examples, self._same = 0, 0.0
        self._cosine_sums_K.zero_()
        return numbers
