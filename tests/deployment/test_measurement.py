"""Scores of models in plain transformers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from families import write_model

from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_raw
from pkd_tune.deployment.measurement import measure
from pkd_tune.encoders.modeling import load_classifier, save_classifier

TASK = TASKS["MRPC"]


def test_a_script_that_is_not_guarded_is_not_begun_again_in_a_fresh_process(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "from pkd_tune.deployment.measurement import in_fresh_process\n"
        "print('begun')\n"
        "print(in_fresh_process(len, 'four'), __name__)\n"
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["begun", "4 __main__"]


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


def test_a_given_classifier_is_read_as_in_training_whatever_its_files_say(tiny_data: Path, tmp_path: Path) -> None:
    """Its tokenizer may pad at the start and give segment ids that it cannot look up; its weights may be in shards."""
    tiny, dev = tiny_data / "models/pretrained/tiny", {"dev": load_raw(TASK, tiny_data)["dev"]}
    model = load_classifier(tiny, TASK.labels, seed=1)
    save_classifier(model, tiny, tmp_path / "tuned")
    expected = measure(tmp_path / "tuned", dev, TASK, 12)
    path = tmp_path / "tuned" / "tokenizer_config.json"
    odd = {"padding_side": "left", "truncation_side": "left"}
    path.write_text(json.dumps(json.loads(path.read_text()) | odd))
    assert measure(tmp_path / "tuned", dev, TASK, 12) == expected
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "tuned" / file, tmp_path / "sharded")
    assert not (tmp_path / "sharded" / "model.safetensors").exists()
    found = measure(tmp_path / "sharded", dev, TASK, 12)
    assert (found["metrics"], found["parameters"]) == (expected["metrics"], expected["parameters"])
    assert found["size_mb"] == pytest.approx(expected["size_mb"], rel=0.1)
    write_model(tmp_path / "one", "bert", seed=1, type_vocab_size=1)
    one = load_classifier(tmp_path / "one", TASK.labels, seed=1)
    one.save_pretrained(tmp_path / "segments")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "one" / file, tmp_path / "segments")
    assert measure(tmp_path / "segments", dev, TASK, 12)["metrics"]["score"] >= 0
