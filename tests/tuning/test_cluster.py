"""Ray's start, as far as it touches this process."""

import signal
from pathlib import Path

from pkd_tune.tuning import cluster
from pkd_tune.tuning.slots import Slots


def test_a_sigterm_means_what_it_meant_before_ray(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with cluster.own_cluster(Slots(device="cpu", count=1), tmp_path / "log"):
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
