"""The loss of Patient Knowledge Distillation: which terms a training has, and how they are computed.

    L = (1 - alpha) CE + alpha KD + beta PT

with the names of the code; the paper's are L_CE, L_DS and L_PT. Sun et al., "Patient Knowledge Distillation for BERT
Model Compression", EMNLP 2019, equations 4 to 8 (https://arxiv.org/abs/1908.09355). The paper writes sums; the
reductions here are those of the authors' released code (github.com/intersun/PKD-for-BERT-Model-Compression), so that
the published alpha, beta and temperature keep their meaning. The paper has no regression task: there both CE and KD are
mean squared errors here.

Shape suffixes: B examples, C classes (1 output for regression), K imitated layers (k-1), H hidden size.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """The terms of a training's loss and their weights; the defaults are fine-tuning without a teacher."""

    alpha: float = 0.0
    """Weight of the teacher's soft labels, in [0, 1]; at 0 the teacher's logits are not needed."""
    beta: float = 0.0
    """Weight of the intermediate-layer (PT) loss, at least 0; at 0 the teacher's [CLS] states are not needed."""
    temperature: float = 1.0
    """Divides both models' logits in the KD term, above 0."""
    normalize: bool = False
    """Whether every [CLS] state is scaled to L2 norm 1 in the intermediate-layer (PT) loss."""
    imitated: tuple[int, ...] = ()
    """The teacher layer that each student layer 1 .. K imitates, counted from 1."""

    def __post_init__(self) -> None:
        if self.beta > 0 and not self.imitated:
            raise ValueError(f"beta must be 0 where no layer is imitated, but got {self.beta}")

    @property
    def needs_logits(self) -> bool:
        """Whether the KD term is computed."""
        return self.alpha > 0

    @property
    def needs_layers(self) -> tuple[int, ...]:
        """The teacher layers whose [CLS] states the intermediate-layer (PT) loss needs; empty without one."""
        return self.imitated if self.beta > 0 else ()

    @property
    def structure(self) -> tuple[bool, tuple[int, ...], bool]:
        """What decides which operations the loss consists of; equal for losses that differ in their weights alone."""
        return self.needs_logits, self.needs_layers, self.normalize


class LossParts(NamedTuple):
    """A batch's loss and its terms before weighting: four scalar tensors in fp32."""

    total: Tensor
    """(1 - alpha) ce + alpha kd + beta pt."""
    ce: Tensor
    """CE: cross-entropy with the true labels, mean over B; for regression, their squared error."""
    kd: Tensor
    """KD: temperature^2 times the KL divergence from teacher to student, mean over B and C; for regression, the
    squared error against the teacher's output, mean over B, whatever the temperature; 0 without teacher logits."""
    pt: Tensor
    """PT: squared distance of [CLS] states, mean over B, K and H; 0 without teacher states."""


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
    labelled_B: Tensor | None = None,
) -> LossParts:
    """Returns L = (1 - alpha) CE + alpha KD + beta PT and its terms.

    With logits z, temperature T, p = softmax(z / T), and [CLS] states h, subscripts s for student and t for teacher:

        CE = mean over B of cross-entropy(z_s, label)
        KD = T^2 * mean over B and C of p_t (log p_t - log p_s)
        PT = mean over B, K and H of (h_s - h_t)^2, with `normalize` of (h_s / |h_s| - h_t / |h_t|)^2

    An example without a label has the cross-entropy 0, so that CE is the sum over the others divided by B; its soft
    labels and states weigh as those of any other.

    For regression CE = mean over B of (z_s - label)^2 and KD = mean over B of (z_s - z_t)^2.

    Args:
        student_logits_BC: The student's logits, with gradient.
        teacher_logits_BC: The teacher's logits for the same examples, or None where alpha is 0.
        labels_B: Class ids, int64. Floating-point labels select the regression loss for logits of shape (B, 1).
        student_cls_BKH: [CLS] states after student layers 1 .. k-1, with gradient.
        teacher_cls_BKH: [CLS] states after the imitated teacher layers, or None where beta is 0 or K is 0.
        alpha: Weight of the soft labels, in [0, 1].
        beta: Weight of the intermediate-layer (PT) loss, at least 0.
        temperature: Divides both models' logits in the KD term, above 0. Without effect in regression, whose
            outputs are no distribution.
        normalize: Whether every [CLS] state is scaled to L2 norm 1 first.
        labelled_B: Whether each example has a label; None: all have one.

    Raises:
        ValueError: When alpha or beta is not 0 but the teacher tensor of its term is None.
    """
    for name, weight, tensor in (("alpha", alpha, teacher_logits_BC), ("beta", beta, teacher_cls_BKH)):
        if tensor is None and not isinstance(weight, Tensor) and weight != 0:
            raise ValueError(f"{name} must be 0 without the teacher tensor of its term, but got {weight}")
    student_logits_BC = student_logits_BC.float()
    regression = labels_B.is_floating_point()
    reduction = "mean" if labelled_B is None else "none"
    if regression:
        ce = F.mse_loss(student_logits_BC.squeeze(-1), labels_B.float(), reduction=reduction)
    else:
        ce = F.cross_entropy(student_logits_BC, labels_B, reduction=reduction)
    if labelled_B is not None:
        ce = (ce * labelled_B).mean()
    kd = pt = ce.new_zeros(())
    if teacher_logits_BC is not None and regression:
        kd = F.mse_loss(student_logits_BC, teacher_logits_BC.float())
    elif teacher_logits_BC is not None:
        divergence_BC = F.kl_div(
            F.log_softmax(student_logits_BC / temperature, dim=-1),
            F.softmax(teacher_logits_BC.float() / temperature, dim=-1),
            reduction="none",  # then a mean over B and C as in the original; "batchmean" would be a mean over B alone
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
