"""The best settings of the authors' own searches, by method, depth and task.

Taken from the result summaries in the released code (intersun/PKD-for-BERT-Model-Compression, commit
9e9e860). The 6-layer students imitate PKD-skip's layers; the released 3-layer runs used layers 10 and 11, which is
PKD-last. There is no summary of 3-layer vanilla KD.
"""

from dataclasses import dataclass

from pkd_tune.config import Method, Strategy, UserError


@dataclass(frozen=True, slots=True)
class Published:
    """The best settings of one search: 12-layer BERT-base teacher, 4 epochs, batch size 32."""

    learning_rate: float
    temperature: float
    alpha: float
    beta: float = 0.0
    normalize: bool = True
    strategy: Strategy = "skip"


PUBLISHED_WIDTH = 768
"""Hidden size of their models. At 384 they were among the worst trials of studies: docs/search.md has the ranks."""

PUBLISHED_TRAINING = {
    "init": "pretrained",
    "epochs": 4,
    "batch_size": 32,
    "warmup_fraction": 0.1,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
}
"""How all of these were trained, by the names of a space's parameters."""

PUBLISHED: dict[tuple[Method, int, str], Published] = {
    ("pkd", 6, "MRPC"): Published(2e-5, 20, 0.7, 8, True),
    ("pkd", 6, "SST-2"): Published(5e-5, 10, 0.5, 100, True),
    ("pkd", 6, "RTE"): Published(1e-5, 10, 0.7, 500, True),
    ("pkd", 6, "MNLI"): Published(5e-5, 10, 0.5, 100, False),
    ("pkd", 6, "QNLI"): Published(5e-5, 20, 0.5, 100, False),
    ("pkd", 6, "QQP"): Published(5e-5, 20, 0.7, 100, False),
    ("pkd", 3, "MRPC"): Published(2e-5, 5, 0.7, 10, True, "last"),
    ("pkd", 3, "SST-2"): Published(5e-5, 20, 0.2, 1, True, "last"),
    ("pkd", 3, "RTE"): Published(5e-5, 20, 0.2, 100, False, "last"),
    ("pkd", 3, "MNLI"): Published(5e-5, 5, 0.7, 1000, False, "last"),
    ("pkd", 3, "QNLI"): Published(5e-5, 20, 0.7, 100, False, "last"),
    ("pkd", 3, "QQP"): Published(5e-5, 20, 0.7, 100, False, "last"),
    ("kd", 6, "MRPC"): Published(2e-5, 20, 0.7),
    ("kd", 6, "SST-2"): Published(2e-5, 20, 0.2),
    ("kd", 6, "CoLA"): Published(2e-5, 5, 0.7),
    ("kd", 6, "RTE"): Published(2e-5, 20, 0.7),
    ("kd", 6, "MNLI"): Published(5e-5, 10, 0.5),
    ("kd", 6, "QNLI"): Published(5e-5, 5, 0.7),
    ("kd", 6, "QQP"): Published(5e-5, 20, 0.7),
}


def published(method: Method, layers: int, task: str) -> Published:
    """Returns the published settings.

    Raises:
        UserError: When there are none for this method, depth and task; lists the tasks that have some.
    """
    found = PUBLISHED.get((method, layers, task))
    if found is not None:
        return found
    there = ", ".join(f"{name} with {depth} layers" for kind, depth, name in PUBLISHED if kind == method)
    raise UserError(
        f"--preset published: no settings were published for {method} on {task} with {layers} layers, only for {there}"
    )
