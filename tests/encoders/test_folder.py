import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig
from transformers.activations import ACT2FN

from pkd_tune.data.glue import TASKS
from pkd_tune.encoders.folder import (
    ACTIVATIONS,
    ARCHITECTURE,
    classifier_problems,
    encoder_problems,
    length_limit,
    model_name,
    weights_key,
)
from pkd_tune.encoders.modeling import load_classifier, save_classifier


@pytest.fixture
def folder(tmp_path: Path, tiny_data: Path) -> Path:
    return Path(shutil.copytree(tiny_data / "models/pretrained/tiny", tmp_path / "tiny"))


def test_no_activation_of_transformers_is_missing() -> None:
    """Older releases know fewer."""
    assert set(ACT2FN) <= set(ACTIVATIONS)


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
        (lambda folder: change(folder, id2label=["a", "b"]), 'must name the classes "0", "1" and so on'),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json is not a JSON object"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json has no model; download or save"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[]"), "tokenizer_config.json is not a JSON obj"),
        (
            lambda folder: change(folder, num_attention_heads=3),
            "hidden_size 32 in config.json is not a multiple of num",
        ),
        (lambda folder: change(folder, hidden_act="magic"), "hidden_act in config.json is 'magic', which transformers"),
        (
            lambda folder: change(folder, hidden_size="wide"),
            "hidden_size in config.json must be a whole number above 0",
        ),
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


@pytest.fixture
def classifier(tmp_path: Path, tiny_data: Path) -> Path:
    """Returns the folder of a classifier for RTE."""
    tiny = tiny_data / "models/pretrained/tiny"
    save_classifier(load_classifier(tiny, TASKS["RTE"].labels, seed=0), tiny, tmp_path / "rte")
    return tmp_path / "rte"


def rewrite(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Replaces tensors of the classifier or the pooler, or leaves them out."""
    path = folder / "model.safetensors"
    weights = load_file(path) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, path, {"format": "pt"})


@pytest.mark.parametrize("names", [("LABEL_0", "LABEL_1"), ("Entailment", "not entailment"), ("0", "1")])
def test_class_names_that_agree_or_say_nothing_are_fine(classifier: Path, names: tuple[str, str]) -> None:
    change(classifier, id2label=dict(enumerate(names)))
    assert encoder_problems(classifier, "--model") == []
    assert classifier_problems(classifier, "--model", TASKS["RTE"]) == []


def test_a_pretrained_model_has_no_classifier_to_complain_of(folder: Path) -> None:
    assert classifier_problems(folder, "--model", TASKS["MNLI"]) == []


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda folder: change(folder, id2label={0: "not_entailment", 1: "entailment"}),
            "its classes are not_entailment, entailment, but RTE has entailment, not_entailment; give a model "
            "fine-tuned for RTE, or correct id2label",
        ),
        (lambda folder: change(folder, id2label=dict(enumerate(TASKS["MRPC"].labels))), "its classes are not_equiv"),
        (lambda folder: change(folder, id2label={0: "LABEL_1", 1: "LABEL_0"}), "its classes are LABEL_1, LABEL_0"),
        (lambda folder: change(folder, id2label={0: "LABEL_0"}), "has 1 outputs, but RTE needs 2"),
        (lambda folder: rewrite(folder, classifier__weight=None), "model.safetensors has no classifier.weight"),
        (lambda folder: rewrite(folder, bert__pooler__dense__bias=None), "model.safetensors has no pooler.dense.bias"),
        (
            lambda folder: rewrite(folder, classifier__weight=torch.zeros(3, 32), classifier__bias=torch.zeros(3)),
            "classifier.weight has shape [3, 32], but config.json says [2, 32]",
        ),
    ],
)
def test_a_classifier_that_is_not_the_tasks_is_one_line(
    classifier: Path, damage: Callable[[Path], object], says: str
) -> None:
    damage(classifier)
    assert encoder_problems(classifier, "--model") == []
    (problem,) = classifier_problems(classifier, "--model", TASKS["RTE"])
    assert problem.startswith(f"--model {classifier}: ")
    assert says in problem
    assert "give a model fine-tuned for RTE" in problem


def test_the_fields_of_the_architecture_have_the_defaults_of_transformers() -> None:
    defaults = BertConfig().to_dict()
    assert {name: defaults[name] for name in ARCHITECTURE} == ARCHITECTURE


def test_a_model_saved_again_has_the_same_key(classifier: Path, tmp_path: Path) -> None:
    """With other incidental fields, another header, and the tensors in another order; without its tokenizer."""
    key = weights_key(classifier)
    copy = Path(shutil.copytree(classifier, tmp_path / "copy"))
    change(copy, transformers_version="9.9", _name_or_path="elsewhere", id2label={0: "LABEL_0", 1: "LABEL_1"})
    weights = load_file(copy / "model.safetensors")
    save_file(dict(reversed(weights.items())), copy / "model.safetensors", {"format": "pt", "written": "again"})
    for path in copy.glob("*token*"):
        path.unlink()
    assert (copy / "model.safetensors").read_bytes() != (classifier / "model.safetensors").read_bytes()
    assert weights_key(copy) == key
    without_default = json.loads((copy / "config.json").read_text())
    assert without_default.pop("hidden_act") == "gelu"
    (copy / "config.json").write_text(json.dumps(without_default))
    assert weights_key(copy) == key


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: change(folder, hidden_act="relu"),
        lambda folder: change(folder, num_attention_heads=4),
        lambda folder: rewrite(folder, classifier__bias=torch.tensor([0.0, 1e-7])),
        lambda folder: rewrite(folder, classifier__bias=torch.zeros(1, 2)),
    ],
    ids=["activation", "heads", "one value", "shape"],
)
def test_another_model_has_another_key(classifier: Path, damage: Callable[[Path], object]) -> None:
    key = weights_key(classifier)
    damage(classifier)
    assert weights_key(classifier) != key


def test_a_snapshot_of_the_hub_has_the_models_name() -> None:
    assert model_name(Path("/x/models--google-bert--bert-base-uncased/snapshots/86b5e09")) == "bert-base-uncased"
    assert model_name(Path("/x/models/pretrained/minilm")) == "minilm"
