import pytest

from pkd_tune.benchmark.interleaving import Workload


@pytest.fixture
def workload() -> Workload:
    """Returns an epoch of two steps with a tiny model."""
    return Workload(
        kind="pkd",
        precision="fp32",
        device="cpu",
        gpu=0,
        threads=1,
        model={
            "vocab_size": 60,
            "hidden_size": 24,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "max_position_embeddings": 40,
        },
        depth=2,
        lengths=[5, 9, 12, 20, 21, 22, 23, 24],
        dev_lengths=[6, 7, 30],
        batch_size=4,
        max_length=32,
        repeats=3,
    )
