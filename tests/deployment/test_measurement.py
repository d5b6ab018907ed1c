"""Scores of models in plain transformers."""

import json
from pathlib import Path

from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_raw
from pkd_tune.deployment.measurement import measure
from pkd_tune.encoders.modeling import load_classifier, save_classifier

TASK = TASKS["MRPC"]


def test_classes_in_another_order_have_the_same_score(tiny_data: Path, tmp_path: Path) -> None:
    tiny, dev = tiny_data / "models/pretrained/tiny", {"dev": load_raw(TASK, tiny_data)["dev"]}
    model = load_classifier(tiny, TASK.labels, seed=1)
    save_classifier(model, tiny, tmp_path / "tuned")
    expected = measure(tmp_path / "tuned", dev, TASK, 32)["metrics"]
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    for parameter in (model.classifier.weight, model.classifier.bias):
        parameter.data = parameter.data.flip(0)
    save_classifier(model, tiny, tmp_path / "turned")
    turned = {**config, "id2label": {"0": TASK.labels[1], "1": TASK.labels[0]}}
    (tmp_path / "turned" / "config.json").write_text(json.dumps(turned))
    assert measure(tmp_path / "turned", dev, TASK, 32)["metrics"] == expected
