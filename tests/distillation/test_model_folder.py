import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pkd_tune.distillation.model_folder import encoder_problems, length_limit, model_name, weights_key


@pytest.fixture
def folder(tmp_path: Path, tiny_data: Path) -> Path:
    return Path(shutil.copytree(tiny_data / "models/pretrained/tiny", tmp_path / "tiny"))


def change(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_a_good_folder_has_no_problem(folder: Path) -> None:
    assert encoder_problems(folder, "--teacher") == []
    assert length_limit(folder) == 128


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json there"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not a JSON object"),
        (lambda folder: change(folder, model_type="gpt2"), "a 'gpt2' model is not supported"),
        (lambda folder: change(folder, num_hidden_layers=6), "has no encoder.layer.5.output.dense.weight"),
        (lambda folder: change(folder, num_hidden_layers=0), "must be a whole number above 0"),
        (lambda folder: change(folder, vocab_size=99), r"word_embeddings.weight in model.safetensors has shape"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 50), "model.safetensors cannot be read"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json is not JSON"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors there; convert"),
        (
            lambda folder: [(folder / name).unlink() for name in ("tokenizer.json", "vocab.txt")],
            "no tokenizer there; add tokenizer.json or vocab.txt",
        ),
    ],
)
def test_a_bad_folder_is_one_line_with_flag_and_remedy(
    folder: Path, damage: Callable[[Path], object], says: str
) -> None:
    damage(folder)
    (problem,) = encoder_problems(folder, "--teacher")
    assert problem.startswith(f"--teacher {folder}: ")
    assert says in problem


def test_a_model_is_known_by_weights_and_configuration(folder: Path, tmp_path: Path) -> None:
    key = weights_key(folder)
    assert weights_key(Path(shutil.copytree(folder, tmp_path / "copy"))) == key
    change(folder, hidden_act="relu")
    assert weights_key(folder) != key


def test_a_snapshot_of_the_hub_has_the_models_name() -> None:
    assert model_name(Path("/x/models--google-bert--bert-base-uncased/snapshots/86b5e09")) == "bert-base-uncased"
    assert model_name(Path("/x/models/pretrained/minilm")) == "minilm"
