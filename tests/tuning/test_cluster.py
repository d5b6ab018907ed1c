"""Ray's start, as far as it touches this process."""

import signal
from pathlib import Path

import pytest

from pkd_tune.config import UserError
from pkd_tune.tuning import cluster
from pkd_tune.tuning.slots import Slots


def test_ray_starts_without_taking_sigterm_and_says_when_it_cannot(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with cluster.own_cluster(Slots(device="cpu", count=1), tmp_path / "log"):
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
            with (
                pytest.raises(UserError, match=r"Ray did not start \(.*twice.*/log says more"),
                cluster.own_cluster(Slots(device="cpu", count=1), tmp_path / "log"),
            ):
                pass
    finally:
        signal.signal(signal.SIGTERM, before)
