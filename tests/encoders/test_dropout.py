import math

import pytest
import torch
from torch import Tensor

from pkd_tune.encoders.dropout import dropout

SHAPE = (501, 1003)  # no multiple of the four numbers that a random word holds
N = math.prod(SHAPE)


def drop(p: float, *, seed: int, x: Tensor | None = None) -> Tensor:
    torch.manual_seed(seed)
    return dropout(torch.ones(SHAPE) if x is None else x, torch.nn.Dropout(p))


def share(events: Tensor) -> float:
    return events.double().mean().item()


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9, 1e-3])
def test_each_element_is_dropped_with_probability_p_or_scaled(p: float) -> None:
    y = drop(p, seed=1)
    assert sorted(y.unique().tolist()) == pytest.approx([0, 1 / (1 - p)])
    deviation = math.sqrt(p * (1 - p) / N)
    assert abs(share(y == 0) - p) < 4 * deviation + 2**-17
    for dim in (0, 1):  # no row or column is favoured
        shares = (y == 0).double().mean(dim)
        assert (shares - p).abs().max() < 6 * math.sqrt(p * (1 - p) / SHAPE[dim]) + 1e-2


@pytest.mark.parametrize("shift", [1, 2, 3, 4, 5, SHAPE[1]])
def test_elements_are_independent_of_their_neighbours(shift: int) -> None:
    dropped = drop(0.1, seed=2).flatten() == 0
    both = share(dropped[shift:] & dropped[:-shift])
    assert abs(both - 0.01) < 4 * math.sqrt(0.01 * 0.99 / N)


def test_calls_and_seeds_are_independent() -> None:
    module = torch.nn.Dropout(0.1)
    torch.manual_seed(3)
    first, second = (dropout(torch.ones(SHAPE), module) == 0 for _ in range(2))
    other_seed = drop(0.1, seed=4) == 0
    for a, b in ((first, second), (first, other_seed), (second, other_seed)):
        assert abs(share(a & b) - 0.01) < 4 * math.sqrt(0.01 * 0.99 / N)


def test_a_seed_gives_the_same_numbers() -> None:
    assert torch.equal(drop(0.3, seed=5), drop(0.3, seed=5))
    assert not torch.equal(drop(0.3, seed=5), drop(0.3, seed=6))


def test_a_restored_generator_continues_with_the_same_numbers() -> None:
    torch.manual_seed(7)
    drop_twice = [dropout(torch.ones(9), torch.nn.Dropout(0.5)) for _ in range(2)]
    torch.manual_seed(7)
    dropout(torch.ones(9), torch.nn.Dropout(0.5))
    state = torch.get_rng_state()
    torch.manual_seed(8)
    torch.set_rng_state(state)
    assert torch.equal(dropout(torch.ones(9), torch.nn.Dropout(0.5)), drop_twice[1])


def test_evaluation_and_p_0_change_nothing_and_draw_nothing() -> None:
    x = torch.randn(5, 7)
    state = torch.get_rng_state()
    assert dropout(x, torch.nn.Dropout(0.5).eval()) is x
    assert dropout(x, torch.nn.Dropout(0.0)) is x
    assert torch.equal(torch.get_rng_state(), state)
    assert dropout(x, torch.nn.Dropout(1.0)).count_nonzero() == 0


def test_the_gradient_goes_through_the_same_mask() -> None:
    x = torch.randn(SHAPE, requires_grad=True)
    y = drop(0.2, seed=9, x=x)
    weights = torch.randn(SHAPE)
    (y * weights).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(y, x * (y != 0) / 0.8)
    torch.testing.assert_close(x.grad, weights * (y != 0) / 0.8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_scale_is_rounded_once_in_other_types(dtype: torch.dtype) -> None:
    x = torch.randn(SHAPE).to(dtype).requires_grad_()
    y = drop(0.1, seed=10, x=x)
    assert y.dtype == dtype
    kept = y != 0
    torch.testing.assert_close(y[kept], (x[kept].double() / 0.9).to(dtype), rtol=1e-12, atol=0)
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    assert torch.equal(x.grad[kept], torch.full_like(x.grad[kept], 1 / 0.9))


def test_strides_do_not_matter() -> None:
    x = torch.randn(6, 5, 4)
    torch.manual_seed(11)
    plain = dropout(x, torch.nn.Dropout(0.5))
    torch.manual_seed(11)
    turned = dropout(x.transpose(0, 2).contiguous().transpose(0, 2), torch.nn.Dropout(0.5))
    assert torch.equal(plain, turned)


@pytest.mark.gpu
def test_on_a_gpu_it_is_pytorchs_own() -> None:
    x = torch.ones(4096, device="cuda")
    torch.manual_seed(12)
    ours = dropout(x, torch.nn.Dropout(0.1))
    torch.manual_seed(12)
    assert torch.equal(ours, torch.nn.functional.dropout(x, 0.1))
