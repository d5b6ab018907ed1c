"""A teacher that is fine-tuned on a GPU, and what it says, against a CPU's."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import TINY_LAYERS, write_bert
from transformers import PreTrainedModel

from pkd_tune.config import TrainingConfig
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.distillation.inference import evaluate
from pkd_tune.distillation.loop import Evaluation
from pkd_tune.distillation.teacher import finetune_once
from pkd_tune.distillation.teacher_outputs import teacher_outputs
from pkd_tune.encoders.modeling import load_classifier

pytestmark = pytest.mark.gpu

CPU, GPU = torch.device("cpu"), torch.device("cuda")
TASK = TASKS["MRPC"]
TEACHING = TrainingConfig(epochs=4, batch_size=16, learning_rate=1e-3, seed=0, precision="fp32")


def test_a_teacher_and_its_outputs_are_those_of_a_cpu(tiny_data: Path, tmp_path: Path) -> None:
    encoder = tmp_path / "bert"
    write_bert(encoder, dropout=0.0)
    splits = load_features(TASK, tiny_data, encoder, max_length=32)
    seen: dict[torch.device, list[Evaluation]] = {CPU: [], GPU: []}
    for device in seen:
        finetune_once(
            TASK,
            splits,
            encoder,
            TINY_LAYERS,
            TEACHING,
            device,
            seen[device].append,
            path=tmp_path / f"{device.type}.safetensors",
        )
    for one, other in zip(*seen.values(), strict=True):
        assert other.losses == pytest.approx(one.losses, rel=2e-2, abs=2e-3)
        assert other.metrics == pytest.approx(one.metrics, abs=6)  # two of 40 examples

    def teacher(device: torch.device) -> PreTrainedModel:
        model = load_classifier(encoder, TASK.labels, seed=TEACHING.seed)
        model.load_state_dict(load_file(tmp_path / "cpu.safetensors"))
        return model.to(device)

    for name in ("train", "dev"):
        said = [
            teacher_outputs(tmp_path / device.type, splits[name], "a key", partial(teacher, device)) for device in seen
        ]
        ids = torch.arange(len(splits[name]))
        torch.testing.assert_close(said[1].logits(ids), said[0].logits(ids), rtol=1e-3, atol=1e-3)
        layers = tuple(range(1, TINY_LAYERS + 1))
        torch.testing.assert_close(said[1].cls(ids, layers), said[0].cls(ids, layers), rtol=5e-3, atol=5e-3)
    of_cpu, of_gpu = (evaluate(teacher(device), {"dev": splits["dev"]}, TASK, precision="fp32")[0] for device in seen)
    assert of_gpu == pytest.approx(of_cpu, abs=3)  # an example of 40
