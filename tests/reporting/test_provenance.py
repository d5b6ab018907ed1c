"""Provenance of results."""

from pkd_tune.reporting.provenance import provenance


def test_the_machine_is_recorded_with_its_gpus() -> None:
    cores = provenance("x", [])["machine"]
    assert cores.endswith("CPU cores")
    gpus = ["NVIDIA H100 80GB HBM3", "NVIDIA L4", "NVIDIA H100 80GB HBM3"]
    found = provenance("python -m pkd_tune.search --task MRPC", gpus)
    assert found["machine"] == f"{cores}, 2 × NVIDIA H100 80GB HBM3, 1 × NVIDIA L4"
    assert found["command"] == "python -m pkd_tune.search --task MRPC"
