"""Dropout with a fast random generator on a CPU.

PyTorch draws one number per element from a Mersenne Twister there, which takes longer than the matrix products of a
small BERT in bf16. Here each call draws a seed from PyTorch's generator and fills its mask from NumPy's SFC64, 16 bits
per element.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

_LEVELS = 1 << 16  # of a 16-bit random number


def dropout(x: Tensor, module: torch.nn.Dropout) -> Tensor:
    """Applies a dropout module: in training each element is 0 with probability p, else divided by 1 - p.

    Elements and calls are independent, and reproducible by `torch.manual_seed()`. On a GPU this is `module(x)`; on a
    CPU p is rounded to a multiple of 2^-16, an error below 1e-5.

    Args:
        x: Of any shape and floating-point type.
        module: Its p and mode are used; in evaluation mode x is returned unchanged.
    """
    if not module.training or module.p == 0:
        return x
    if x.device.type != "cpu" or module.p == 1:
        return module(x)  # type: ignore[no-any-return]
    dropped: Tensor = _Dropout.apply(x, module.p)  # type: ignore[no-untyped-call]
    return dropped


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        kept = _draw_kept(x.shape, p, x.dtype)
        ctx.save_for_backward(kept)
        ctx.scale = 1 / (1 - p)
        return _scaled_product(x, kept, ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return _scaled_product(gradients[0], kept, ctx.scale), None


def _draw_kept(shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
    """Returns a mask of the given shape: independently 1 with probability 1 - p, else 0."""
    seed = int(torch.randint(2**63 - 1, ()))
    words = np.random.SFC64(seed).random_raw(-(-shape.numel() // 4))
    bits = torch.from_numpy(words.view(np.int16))[: shape.numel()].view(shape)
    threshold = round(p * _LEVELS) - _LEVELS // 2
    return torch.ge(bits, threshold, out=torch.empty(shape, dtype=dtype))


def _scaled_product(x: Tensor, kept: Tensor, scale: float) -> Tensor:
    """Returns x * kept * scale in one pass over memory, with the scale not rounded to the type of x."""
    return torch.addcmul(x.new_zeros(()), x, kept, value=scale)
