import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForTokenClassification
from transformers.activations import ACT2FN

from pkd_tune.config import UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.data.tokens import read_tokenizer
from pkd_tune.encoders.folder import (
    ACTIVATIONS,
    class_order,
    classifier_key,
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


def add_token(folder: Path, number: int) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": number, "content": "[NEW]"})
    path.write_text(json.dumps(content))


def only_vocabulary(folder: Path, **files: object) -> None:
    """Leaves these JSON files of the tokenizer, named without their ending, and no tokenizer.json or vocab.txt."""
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()
    for stem, content in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(content))


def test_a_good_folder_has_no_problem(folder: Path) -> None:
    assert encoder_problems(folder, "--teacher") == []
    assert length_limit(folder) == 128


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json there"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not a JSON object"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json is not a JSON object"),
        (lambda folder: (folder / "config.json").write_text("[" * 10**5), "config.json is not a JSON object"),
        (
            lambda folder: (folder / "config.json").write_text(f'{{"x": {"1" * 5000}}}'),
            "config.json is not a JSON object",
        ),
        (lambda folder: change(folder, model_type="gpt2"), "a 'gpt2' model is not supported: it is a decoder, whose"),
        (lambda folder: change(folder, model_type="albert"), "a 'albert' model is not supported: its layers share one"),
        (
            lambda folder: change(folder, model_type="t5"),
            "a 't5' model is not supported; give an encoder: BERT, RoBERTa,",
        ),
        (lambda folder: change(folder, model_type=None), "config.json names no model_type; give an encoder"),
        (lambda folder: change(folder, position_embedding_type="relative_key"), "but only 'absolute' is supported"),
        (lambda folder: change(folder, is_decoder=True), "is_decoder in config.json is true"),
        (
            lambda folder: change(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
            "quantization_config in config.json says that its weights are quantised",
        ),
        (lambda folder: change(folder, pad_token_id=None), "pad_token_id in config.json is null; set it to"),
        (
            lambda folder: change(folder, pad_token_id=99),
            "pad_token_id in config.json is 99, but must be a token id, bel",
        ),
        (lambda folder: change(folder, hidden_dropout_prob=5), "is 5, but must be a number from 0 to below 1"),
        (lambda folder: change(folder, classifier_dropout=True), "is True, but must be a number from 0 to below 1"),
        (lambda folder: change(folder, layer_norm_eps="small"), "is 'small', but must be a number above 0"),
        (lambda folder: change(folder, layer_norm_eps=float("nan")), "is nan, but must be a number above 0"),
        (lambda folder: change(folder, type_vocab_size="two"), "is 'two', but must be a whole number"),
        (lambda folder: change(folder, vocab_size=10**12), "vocab_size in config.json must be a whole number above 0"),
        (
            lambda folder: change(folder, hidden_act=["gelu"]),
            "hidden_act in config.json is ['gelu'], which transformers",
        ),
        (
            lambda folder: add_token(folder, 99),
            "tokenizer.json has token ids up to 99, but vocab_size in config.json is 23",
        ),
        (
            lambda folder: only_vocabulary(folder, vocab={"[PAD]": 0, "a": 99}),
            "vocab.json has token ids up to 99, but vocab_size in config.json is 23",
        ),
        (
            lambda folder: only_vocabulary(folder, vocab={"[PAD]": 0}, added_tokens={"new": 98}),
            "vocab.json has token ids up to 98, but vocab_size in config.json is 23",
        ),
        (lambda folder: only_vocabulary(folder, vocab=["a"]), "vocab.json has no vocabulary of tokens and ids"),
        (lambda folder: (folder / "tokenizer.json").write_text("[" * 10**5), "tokenizer.json is not a JSON object"),
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


def test_weights_that_this_user_may_not_read_are_one_line(folder: Path) -> None:
    """The library says of them that there is no such file. Root, who may read all, becomes another user for this."""
    (folder / "model.safetensors").chmod(0o600 if os.getuid() == 0 else 0)
    code = """
import os
from pathlib import Path
from pkd_tune.encoders.folder import encoder_problems
if os.getuid() == 0:
    os.setresuid(61001, 61001, 61001)
print(*encoder_problems(Path("."), "--teacher"), sep="\\n")
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    problem = "--teacher .: model.safetensors cannot be read by this user; have its permissions changed\n"
    assert ended.stdout == problem, ended.stderr


def test_weights_of_another_shape_that_headers_do_not_tell_are_one_line(folder: Path) -> None:
    change(folder, type_vocab_size=3)
    assert encoder_problems(folder, "--teacher") == []
    with pytest.raises(
        UserError,
        match=rf"^{folder}: .*token_type_embeddings.weight in its weight file has shape \[2, 32\], but config.json "
        r"implies \[3, 32\]; download or save the model again$",
    ):
        load_classifier(folder, ("no", "yes"), seed=0)


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


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("entailment", "not_entailment"), (0, 1)),
        (("not_entailment", "Entailment"), (1, 0)),
        (("LABEL_0", "LABEL_1"), (0, 1)),
        (("LABEL_1", "LABEL_0"), (1, 0)),
        (("1", "0"), (1, 0)),
        (("entailment", "entailment"), None),
        (("entailment", "LABEL_1"), None),
    ],
)
def test_classes_are_matched_by_name(classifier: Path, names: tuple[str, str], order: tuple[int, int] | None) -> None:
    labels, key = TASKS["RTE"].labels, weights_key(classifier)
    logits = load_classifier(classifier, labels, seed=0).classifier
    change(classifier, id2label=dict(enumerate(names)))
    assert class_order(classifier, labels) == order
    if order is None:
        return
    assert classifier_problems(classifier, "--model", TASKS["RTE"]) == []
    assert (classifier_key(classifier, labels) == key) == (order == (0, 1))
    mapped = load_classifier(classifier, labels, seed=0)
    assert torch.equal(mapped.classifier.weight, logits.weight[list(order)])
    assert torch.equal(mapped.classifier.bias, logits.bias[list(order)])
    assert mapped.config.id2label == dict(enumerate(labels))


def test_the_output_layer_of_another_task_is_no_start(folder: Path, tmp_path: Path) -> None:
    """With as many classes, its weights would silently become those of the classifier."""
    tagger = BertForTokenClassification.from_pretrained(folder, num_labels=2)
    tagger.save_pretrained(tmp_path / "tagger")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / "tagger")
    (problem,) = encoder_problems(tmp_path / "tagger", "--teacher")
    assert "is the output layer of another task (BertForTokenClassification in config.json)" in problem


@pytest.mark.parametrize("name", ["BertJapaneseTokenizer", "ATokenizerOfOnesOwn"])
def test_a_tokenizer_that_cannot_be_loaded_is_one_line(folder: Path, name: str) -> None:
    """It may need a package that is not there, or code that comes with the model."""
    only_vocabulary(folder)
    (folder / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\na\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    with pytest.raises(UserError, match=r"tokenizer|fast version"):
        read_tokenizer(folder)


def test_a_pretrained_model_has_no_classifier_to_complain_of(folder: Path) -> None:
    assert classifier_problems(folder, "--model", TASKS["MNLI"]) == []


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda folder: change(folder, id2label={0: "contradiction", 1: "entailment"}),
            "its classes are contradiction, entailment, but RTE has entailment, not_entailment; give a model "
            "fine-tuned for RTE, or correct id2label",
        ),
        (lambda folder: change(folder, id2label=dict(enumerate(TASKS["MRPC"].labels))), "its classes are not_equiv"),
        (lambda folder: change(folder, id2label={0: "entailment", 1: "Entailment"}), "its classes are entailment, Ent"),
        (lambda folder: change(folder, id2label={0: "LABEL_1", 1: "LABEL_2"}), "its classes are LABEL_1, LABEL_2"),
        (lambda folder: change(folder, id2label={0: "LABEL_0"}), "has 1 outputs, but RTE needs 2"),
        (
            lambda folder: change(folder, problem_type="multi_label_classification"),
            "problem_type in config.json is 'multi_label_classification', so that a text has any number of classes",
        ),
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
