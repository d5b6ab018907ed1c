"""Flags that commands share."""

import pytest

from pkd_tune.search import make_parser


@pytest.mark.parametrize("depths", ["1 2 3", "1,2,3", "1,2 3", "1, 2, 3"])
def test_depths_are_one_list_however_they_are_separated(depths: str) -> None:
    given = make_parser().parse_args(["--task", "MRPC", "--depths", *depths.split()])
    assert given.depths == [1, 2, 3]
