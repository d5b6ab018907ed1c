"""The losses against numbers recorded from the authors' released code, and against hand computation.

The logits are those of a tiny random BERT, its first 6 and its first 3 layers; TERMS is what the original computed.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pkd_tune.distillation.losses import Loss, LossParts, pkd_loss

LABELS = torch.tensor([0, 2, 1, 1, 0, 2])
TEACHER = torch.tensor(
    [
        [0.07262945175170898, -1.1426618099212646, -0.26303428411483765],
        [2.3282318115234375, -0.1873442530632019, 1.1623153686523438],
        [1.8010494709014893, -0.440734326839447, 0.6992486715316772],
        [1.6642820835113525, -0.35010001063346863, 0.6009169220924377],
        [2.1071996688842773, -0.27974504232406616, 0.8086633086204529],
        [0.8551528453826904, -0.3149632215499878, 0.18301421403884888],
    ]
)
STUDENTS = {
    6: torch.tensor(
        [
            [0.1434161365032196, -0.8131705522537231, -1.097623586654663],
            [-0.16052380204200745, -1.0117721557617188, -0.3909125030040741],
            [-0.7865220308303833, -0.786805272102356, -0.9322949051856995],
            [-0.4394397735595703, -1.1600927114486694, -0.776593804359436],
            [-0.8289065361022949, -0.9171301126480103, -0.8442095518112183],
            [-0.3568703532218933, -0.9770717620849609, -0.6980197429656982],
        ]
    ),
    3: torch.tensor(
        [
            [0.470772922039032, -0.2939256429672241, -0.3773154020309448],
            [-0.17788898944854736, -0.6346557140350342, 1.3584659099578857],
            [0.7600505352020264, -0.7586591243743896, 0.7162226438522339],
            [0.6360523700714111, -1.0636117458343506, 1.092942237854004],
            [0.3353562653064728, -1.0636521577835083, 1.1590704917907715],
            [0.8806138038635254, -0.5242425203323364, 0.7399181127548218],
        ]
    ),
}
# depth, alpha, temperature, ce, kd, total
TERMS = [
    (6, 0.7, 20.0, 1.0535510778427124, 0.0769846960902214, 0.3699546158313751),
    (6, 0.2, 5.0, 1.0535510778427124, 0.07613665610551834, 0.8580681681632996),
    (3, 0.7, 20.0, 1.3501652479171753, 0.08404850959777832, 0.46388354897499084),
    (3, 0.2, 5.0, 1.3501652479171753, 0.08870044350624084, 1.0978723764419556),
]


def finetune_loss(logits_BC: torch.Tensor, labels_B: torch.Tensor) -> LossParts:
    return pkd_loss(logits_BC, None, labels_B, None, None, alpha=0.0, beta=0.0, temperature=1.0, normalize=False)


def test_an_example_without_a_label_has_no_cross_entropy_and_weighs_alike_in_the_other_terms() -> None:
    kinds: dict[str, Any] = {"alpha": 0.7, "beta": 0.0, "temperature": 20.0, "normalize": False}
    labelled = torch.tensor([True, False, True, True, False, True])
    some = pkd_loss(STUDENTS[6], TEACHER, LABELS, None, None, **kinds, labelled_B=labelled)
    others = pkd_loss(STUDENTS[6], TEACHER, LABELS.where(labelled, 0), None, None, **kinds, labelled_B=labelled)
    whole = pkd_loss(STUDENTS[6], TEACHER, LABELS, None, None, **kinds)
    of_labelled = finetune_loss(STUDENTS[6][labelled], LABELS[labelled]).ce
    torch.testing.assert_close(some.ce, of_labelled * 4 / 6)  # the sum over four, divided by all six
    assert some.kd == whole.kd
    torch.testing.assert_close(some.total, 0.3 * of_labelled * 4 / 6 + 0.7 * whole.kd)
    assert others.total == some.total  # whatever stands in the place of a label
    all_of_them = pkd_loss(STUDENTS[6], TEACHER, LABELS, None, None, **kinds, labelled_B=torch.ones(6).bool())
    torch.testing.assert_close(all_of_them.total, whole.total)
    values = torch.tensor([1.0, 2.0, 4.0])
    regression = pkd_loss(
        torch.zeros(3, 1),
        None,
        values,
        None,
        None,
        **{**kinds, "alpha": 0.0},
        labelled_B=torch.tensor([True, False, True]),
    )
    assert regression.ce == pytest.approx((1 + 16) / 3)


@pytest.mark.parametrize(("depth", "alpha", "temperature", "ce", "kd", "total"), TERMS)
def test_kd_equals_the_original(
    depth: int, alpha: float, temperature: float, ce: float, kd: float, total: float
) -> None:
    parts = pkd_loss(
        STUDENTS[depth], TEACHER, LABELS, None, None, alpha=alpha, beta=0.0, temperature=temperature, normalize=False
    )
    assert parts.ce.item() == pytest.approx(ce, rel=1e-5)
    assert parts.kd.item() == pytest.approx(kd, rel=1e-5)
    assert parts.pt.item() == 0
    assert parts.total.item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(("depth", "kd"), [(6, 0.07683087885379791), (3, 0.08571528643369675)])
def test_kd_at_temperature_10_equals_the_original(depth: int, kd: float) -> None:
    weights: dict[str, Any] = {"alpha": 0.7, "beta": 0.0, "temperature": 10.0, "normalize": True}
    parts = pkd_loss(STUDENTS[depth], TEACHER, LABELS, None, None, **weights)
    assert parts.kd.item() == pytest.approx(kd, rel=1e-5)


def test_finetune_is_cross_entropy_alone() -> None:
    parts = finetune_loss(STUDENTS[6], LABELS)
    assert parts.total.item() == parts.ce.item() == pytest.approx(1.0535510778427124, rel=1e-5)
    assert parts.kd.item() == parts.pt.item() == 0


# Two examples, one imitated layer, three dimensions: (1,2,2) against (2,0,0) and (0,3,4) against (0,0,1).
STATES = torch.tensor([[[1.0, 2.0, 2.0]], [[0.0, 3.0, 4.0]]])
TEACHER_STATES = torch.tensor([[[2.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]]])


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        # Squared distances 1+4+4 and 9+9, mean over 2 x 1 x 3.
        (False, (9 + 18) / 6),
        # (1,2,2)/3 - (1,0,0) = (-2,2,2)/3 and (0,3,4)/5 - (0,0,1) = (0,3,-1)/5.
        (True, (12 / 9 + 10 / 25) / 6),
    ],
)
def test_patience_is_a_mean_over_batch_layers_and_hidden(normalize: bool, expected: float) -> None:
    logits = torch.zeros(2, 2)
    parts = pkd_loss(
        logits,
        logits,
        torch.tensor([0, 1]),
        STATES,
        TEACHER_STATES,
        alpha=0.25,
        beta=8.0,
        temperature=3.0,
        normalize=normalize,
    )
    assert parts.pt.item() == pytest.approx(expected, rel=1e-6)
    assert parts.total.item() == pytest.approx(0.75 * math.log(2) + 8 * expected, rel=1e-6)


def test_a_regression_has_squared_errors_by_hand() -> None:
    # Labels 1 and 3, student 2 and 5: (1 + 4) / 2. Teacher 1.5 and 2: (0.25 + 9) / 2.
    student = torch.tensor([[2.0], [5.0]], requires_grad=True)
    teacher, labels = torch.tensor([[1.5], [2.0]]), torch.tensor([1.0, 3.0])
    for temperature in (1.0, 20.0):
        parts = pkd_loss(
            student, teacher, labels, None, None, alpha=0.2, beta=0.0, temperature=temperature, normalize=False
        )
        assert parts.ce.item() == pytest.approx(2.5, rel=1e-6)
        assert parts.kd.item() == pytest.approx(4.625, rel=1e-6)
        assert parts.pt.item() == 0
        assert parts.total.item() == pytest.approx(0.8 * 2.5 + 0.2 * 4.625, rel=1e-6)
    # d total / d student = 0.8 (s - y) + 0.2 (s - t), each times 2 / B.
    (gradient,) = torch.autograd.grad(parts.total, student)
    torch.testing.assert_close(gradient, torch.tensor([[0.8 + 0.1], [1.6 + 0.6]]))
    alone = finetune_loss(student, labels.double())
    assert alone.total.dtype == torch.float32
    assert alone.total.item() == alone.ce.item() == pytest.approx(2.5, rel=1e-6)


@given(st.floats(0, 1), st.floats(0, 1000), st.floats(1, 30), st.booleans())
def test_total_is_the_weighted_sum(alpha: float, beta: float, temperature: float, normalize: bool) -> None:
    states, teacher_states = STATES.repeat(3, 1, 1), TEACHER_STATES.repeat(3, 1, 1)
    weights: dict[str, Any] = {"alpha": alpha, "beta": beta, "temperature": temperature, "normalize": normalize}
    parts = pkd_loss(STUDENTS[3], TEACHER, LABELS, states, teacher_states, **weights)
    expected = (1 - alpha) * parts.ce + alpha * parts.kd + beta * parts.pt
    assert parts.total.item() == pytest.approx(expected.item(), rel=1e-6)
    if alpha == 0 and beta == 0:
        assert parts.total.item() == parts.ce.item()


def test_alpha_1_ignores_the_labels() -> None:
    weights: dict[str, Any] = {"alpha": 1.0, "beta": 0.0, "temperature": 5.0, "normalize": False}
    one, other = (pkd_loss(STUDENTS[3], TEACHER, labels, None, None, **weights) for labels in (LABELS, 2 - LABELS))
    assert one.total.item() == other.total.item()


def test_a_term_with_weight_needs_its_teacher() -> None:
    weights: dict[str, Any] = {"temperature": 5.0, "normalize": False}
    with pytest.raises(ValueError, match=r"alpha must be 0 without .* got 0\.5"):
        pkd_loss(STUDENTS[3], None, LABELS, None, None, alpha=0.5, beta=0.0, **weights)
    with pytest.raises(ValueError, match=r"beta must be 0 without .* got 10"):
        pkd_loss(STUDENTS[3], TEACHER, LABELS, None, None, alpha=0.5, beta=10.0, **weights)


def test_losses_are_fp32_whatever_the_student_computes_in() -> None:
    weights: dict[str, Any] = {"alpha": 0.5, "beta": 1.0, "temperature": 5.0, "normalize": True}
    states, teacher_states = STATES.repeat(3, 1, 1).bfloat16(), TEACHER_STATES.repeat(3, 1, 1).half()
    parts = pkd_loss(STUDENTS[3].bfloat16(), TEACHER, LABELS, states, teacher_states, **weights)
    assert all(part.dtype == torch.float32 for part in parts)


def test_a_loss_needs_the_teacher_outputs_of_its_terms_alone() -> None:
    weights: dict[str, Any] = {"temperature": 5.0, "normalize": True, "imitated": (2, 4)}
    needs = {
        (0.0, 0.0): (False, ()),
        (0.5, 0.0): (True, ()),
        (0.0, 9.0): (False, (2, 4)),
        (0.5, 9.0): (True, (2, 4)),
    }
    for (alpha, beta), (logits, layers) in needs.items():
        loss = Loss(alpha=alpha, beta=beta, **weights)
        assert (loss.needs_logits, loss.needs_layers) == (logits, layers)
    assert (Loss().needs_logits, Loss().needs_layers) == (False, ())
    with pytest.raises(ValueError, match="beta must be 0 where no layer is imitated, but got 9"):
        Loss(beta=9.0)


def test_losses_with_other_weights_consist_of_the_same_operations() -> None:
    loss = Loss(alpha=0.5, beta=9.0, temperature=5.0, normalize=True, imitated=(2, 4))
    assert replace(loss, alpha=1.0, beta=0.1, temperature=2.0).structure == loss.structure
    for change in ({"alpha": 0.0}, {"beta": 0.0}, {"normalize": False}, {"imitated": (3, 4)}):
        assert replace(loss, **change).structure != loss.structure
