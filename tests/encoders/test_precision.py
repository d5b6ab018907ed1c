import pytest
import torch

from pkd_tune.config import Precision, UserError
from pkd_tune.encoders.precision import check_precision, has_bf16, mixed_precision

CPU = torch.device("cpu")


def product_type(precision: Precision) -> torch.dtype:
    with mixed_precision(CPU, precision):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def test_fp32_is_never_cast_and_auto_depends_on_the_device() -> None:
    assert product_type("fp32") == torch.float32
    assert product_type("auto") == (torch.bfloat16 if has_bf16("cpu") else torch.float32)


@pytest.mark.skipif(has_bf16("cpu"), reason="this CPU has bf16")
def test_unsupported_bf16_is_an_error_that_names_the_remedy() -> None:
    with pytest.raises(
        UserError, match=r"--precision bf16: the CPU of this machine does not support bf16; give --precision fp32"
    ):
        check_precision("bf16", "cpu")
    with pytest.raises(UserError):
        product_type("bf16")


@pytest.mark.skipif(not has_bf16("cpu"), reason="this CPU has no bf16")
def test_supported_bf16_is_cast() -> None:
    assert product_type("bf16") == torch.bfloat16
