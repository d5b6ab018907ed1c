"""The three terms of patient knowledge distillation and their sum.

Shape suffixes: B examples, C classes (1 output for regression), K imitated layers (k-1), H hidden size.

The reductions are those of the authors' released code, so that their published alpha, beta and temperature keep their
meaning; the paper writes sums instead (Sun et al., EMNLP 2019, equations 4 to 8). It has no regression task; there
both the hard and the soft term are mean squared errors here.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class LossParts(NamedTuple):
    """A batch's loss and its terms before weighting: four scalar tensors in fp32."""

    total: Tensor
    """(1 - alpha) ce + alpha kd + beta pt."""
    ce: Tensor
    """Cross-entropy with the true labels, mean over B; for regression, their squared error."""
    kd: Tensor
    """temperature^2 times the KL divergence from teacher to student, mean over B and C; for regression, the squared
    error of the teacher's output, mean over B, whatever the temperature; 0 without teacher logits."""
    pt: Tensor
    """Patience: squared distance of [CLS] states, mean over B, K and H; 0 without teacher states."""


def pkd_loss(
    student_logits_BC: Tensor,
    teacher_logits_BC: Tensor | None,
    labels_B: Tensor,
    student_cls_BKH: Tensor | None,
    teacher_cls_BKH: Tensor | None,
    *,
    alpha: float | Tensor,
    beta: float | Tensor,
    temperature: float | Tensor,
    normalize: bool,
) -> LossParts:
    """Returns L = (1 - alpha) L_CE + alpha L_DS + beta L_PT and its terms.

    Args:
        student_logits_BC: The student's logits, with gradient.
        teacher_logits_BC: The teacher's logits for the same examples, or None where alpha is 0.
        labels_B: Class ids, int64. Floating-point labels make it a regression: the logits are (B, 1) predictions.
        student_cls_BKH: [CLS] states after student layers 1 .. k-1, with gradient.
        teacher_cls_BKH: [CLS] states after the teacher layers they imitate, or None where beta is 0 or K is 0.
        alpha: Weight of the soft labels, in [0, 1].
        beta: Weight of the patience term, at least 0.
        temperature: Divides both models' logits in the soft-label term, above 0. Without effect in a regression, whose
            outputs have no distribution to soften.
        normalize: Whether every [CLS] state is scaled to L2 norm 1 first.

    Raises:
        ValueError: When a weight above 0 is given for a term whose teacher tensor is None.
    """
    for name, weight, tensor in (("alpha", alpha, teacher_logits_BC), ("beta", beta, teacher_cls_BKH)):
        if tensor is None and not isinstance(weight, Tensor) and weight != 0:
            raise ValueError(f"{name} must be 0 without the teacher tensor it weighs, but got {weight}")
    student_logits_BC = student_logits_BC.float()
    regression = labels_B.is_floating_point()
    if regression:
        ce = F.mse_loss(student_logits_BC.squeeze(-1), labels_B.float())
    else:
        ce = F.cross_entropy(student_logits_BC, labels_B)
    kd = pt = ce.new_zeros(())
    if teacher_logits_BC is not None and regression:
        kd = F.mse_loss(student_logits_BC, teacher_logits_BC.float())
    elif teacher_logits_BC is not None:
        divergence_BC = F.kl_div(
            F.log_softmax(student_logits_BC / temperature, dim=-1),
            F.softmax(teacher_logits_BC.float() / temperature, dim=-1),
            reduction="none",  # the original's "mean" is deprecated for not being the definition's mean over B
        )
        kd = temperature**2 * divergence_BC.mean()
    if teacher_cls_BKH is not None and student_cls_BKH is not None:
        student_cls_BKH, teacher_cls_BKH = student_cls_BKH.float(), teacher_cls_BKH.float()
        if normalize:
            student_cls_BKH, teacher_cls_BKH = (
                F.normalize(student_cls_BKH, dim=-1),
                F.normalize(teacher_cls_BKH, dim=-1),
            )
        pt = F.mse_loss(student_cls_BKH, teacher_cls_BKH)
    total = (1 - alpha) * ce + alpha * kd + beta * pt
    return LossParts(total, ce, kd, pt)


def finetune_loss(logits_BC: Tensor, labels_B: Tensor) -> LossParts:
    """Returns the plain cross-entropy (for regression, the mean squared error) as a loss whose other terms are 0."""
    return pkd_loss(logits_BC, None, labels_B, None, None, alpha=0.0, beta=0.0, temperature=1.0, normalize=False)
