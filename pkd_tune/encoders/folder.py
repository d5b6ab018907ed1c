"""Hugging Face model folders, checked and described without loading the model or importing torch."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pkd_tune.config import Task
from pkd_tune.data.tokens import TOKENIZER_MAIN_FILES

WEIGHTS = "model.safetensors"
"""Name of the weight file."""


def model_name(folder: Path) -> str:
    """Returns a model's name in reports and folder names: the folder's, or for a hub snapshot the repository's.

    The hub's cache keeps google-bert/bert-base-uncased in `models--google-bert--bert-base-uncased/snapshots/<commit>`.
    """
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.split("--")[-1]
    return folder.name


BERT_BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
"""Sizes that a config.json without them has."""

ARCHITECTURE = {
    **BERT_BASE,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "initializer_range": 0.02,
}
"""The fields of a config.json that decide, with the weights, a model's outputs and its training, and their defaults."""


ACTIVATIONS = (
    *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh"),
    *(
        "gelu_pytorch_tanh",
        "hardswish",
        "laplace",
        "leaky_relu",
        "linear",
        "mish",
        "prelu",
        "quick_gelu",
        "relu",
        "relu2",
    ),
    *("relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh", "xielu"),
)
"""Values of hidden_act in transformers, whose import takes seconds; a test compares."""

TOKENIZER_JSON: dict[str, tuple[str, ...]] = {
    "tokenizer.json": ("model", "added_tokens"),
    "tokenizer_config.json": (),
    "special_tokens_map.json": (),
}
"""Tokenizer files that are JSON objects, and the keys that each must have."""


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the folder's config.json."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert isinstance(config, dict)
    return config


def encoder_problems(folder: Path, flag: str) -> list[str]:
    """Returns the problems of the encoder in a folder, one line each, that begin with the flag that names it."""
    if not (folder / "config.json").is_file():
        return [f"{flag} {folder}: no config.json there; give a folder written by save_pretrained"]
    try:
        config = read_config(folder)
    except (json.JSONDecodeError, UnicodeDecodeError, AssertionError):
        return [f"{flag} {folder}: config.json is not a JSON object; download or save the model again"]
    problems = []
    if config.get("model_type") != "bert":
        problems.append(
            f"{flag} {folder}: a {config.get('model_type', 'model of unknown type')!r} model is not supported; "
            "give a BERT encoder (model_type 'bert' in config.json)"
        )
    else:
        problems += [
            f"{flag} {folder}: {wrong}; download or save the model again" for wrong in _config_problems(config)
        ]
    if not (folder / WEIGHTS).is_file():
        problems.append(f"{flag} {folder}: no {WEIGHTS} there; convert the weights to safetensors (save_pretrained)")
    elif not problems and (wrong := _weights_problem(folder, config)):
        problems.append(f"{flag} {folder}: {wrong}; download or save the model again")
    if not any((folder / name).is_file() for name in TOKENIZER_MAIN_FILES):
        problems.append(f"{flag} {folder}: no tokenizer there; add {' or '.join(TOKENIZER_MAIN_FILES)}")
    for name in (name for name in TOKENIZER_JSON if (folder / name).is_file()):
        if wrong := _tokenizer_problem(folder / name):
            problems.append(f"{flag} {folder}: {wrong}; download or save the tokenizer again")
    return problems


def _tokenizer_problem(path: Path) -> str | None:
    """Returns the problem of one of the tokenizer's JSON files, if it has one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        return f"{path.name} is not a JSON object"
    missing = [part for part in TOKENIZER_JSON[path.name] if part not in content]
    return f"{path.name} has no {missing[0]}" if missing else None


def _config_problems(config: dict[str, Any]) -> list[str]:
    """Returns the first impossible value in a config.json, if any."""
    size = {**BERT_BASE, **config}
    for name in BERT_BASE:
        if not isinstance(size[name], int) or size[name] < 1:
            return [f"{name} in config.json must be a whole number above 0"]
    width, heads = size["hidden_size"], size["num_attention_heads"]
    if width % heads:
        return [f"hidden_size {width} in config.json is not a multiple of num_attention_heads {heads}"]
    if config.get("hidden_act", "gelu") not in ACTIVATIONS:
        return [f"hidden_act in config.json is {config['hidden_act']!r}, which transformers does not know"]
    if not _numbered(config.get("id2label")):
        return ['id2label in config.json must name the classes "0", "1" and so on']
    return []


def _numbered(id2label: Any) -> bool:
    """Tells whether `id2label` is missing or has the keys "0", "1" and so on."""
    return id2label is None or (
        isinstance(id2label, dict) and id2label.keys() == {str(i) for i in range(len(id2label))}
    )


def _weights_problem(folder: Path, config: dict[str, Any]) -> str | None:
    """Returns how the weight file's header contradicts config.json, if it does."""
    try:
        shapes = _weight_shapes(folder)
    except SafetensorError as error:
        return f"{WEIGHTS} cannot be read ({error})"
    size = {**BERT_BASE, **config}
    width, layers = size["hidden_size"], size["num_hidden_layers"]
    expected = {
        "embeddings.word_embeddings.weight": [size["vocab_size"], width],
        "embeddings.position_embeddings.weight": [size["max_position_embeddings"], width],
        f"encoder.layer.{layers - 1}.output.dense.weight": [width, size["intermediate_size"]],
    }
    for name, shape in expected.items():
        if name not in shapes:
            return f"{WEIGHTS} has no {name}, although config.json implies it"
        if shapes[name] != shape:
            return f"{name} in {WEIGHTS} has shape {shapes[name]}, but config.json says {shape}"
    return None


def _weight_shapes(folder: Path) -> dict[str, list[int]]:
    """Returns the shape of every tensor in the weight file by name, without a leading `bert.`."""
    with safe_open(folder / WEIGHTS, framework="np") as file:
        return {name.removeprefix("bert."): file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def classifier_problems(folder: Path, flag: str, task: Task) -> list[str]:
    """Returns the first problem of using the classifier in a folder for a task; empty where there is no classifier.

    Generic class names such as LABEL_0 are assumed to be in the task's order.

    Args:
        folder: One in which `encoder_problems()` finds none.
        flag: The flag that names the folder.
        task: The task to classify.
    """
    if not has_classifier(folder):
        return []
    remedy = f"give a model fine-tuned for {task.name}"
    names, width = class_names(folder), {**BERT_BASE, **read_config(folder)}["hidden_size"]
    if len(names) != task.outputs:
        return [
            f"{flag} {folder}: its classifier has {len(names)} outputs, but {task.name} needs {task.outputs}; {remedy}"
        ]
    shapes = _weight_shapes(folder)
    expected = {
        "classifier.weight": [task.outputs, width],
        "classifier.bias": [task.outputs],
        "pooler.dense.weight": [width, width],
        "pooler.dense.bias": [width],
    }
    for name, shape in expected.items():
        if name not in shapes:
            return [f"{flag} {folder}: {WEIGHTS} has no {name}, which the classifier needs; {remedy}"]
        if shapes[name] != shape:
            return [f"{flag} {folder}: {name} has shape {shapes[name]}, but config.json says {shape}; {remedy}"]
    for i, (name, label) in enumerate(zip(names, task.labels, strict=False)):
        if _plain(name) not in (f"label{i}", str(i), _plain(label)):
            return [
                f"{flag} {folder}: its classes are {', '.join(names)}, but {task.name} has {', '.join(task.labels)}; "
                f"{remedy}, or correct id2label in its config.json"
            ]
    return []


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def length_limit(folder: Path) -> int:
    """Returns the longest input of the model in a folder, in tokens."""
    return int({**BERT_BASE, **read_config(folder)}["max_position_embeddings"])


def layer_count(folder: Path) -> int:
    """Returns the depth N of the encoder in a folder."""
    return int({**BERT_BASE, **read_config(folder)}["num_hidden_layers"])


def has_classifier(folder: Path) -> bool:
    """Tells whether a folder holds a fine-tuned classifier rather than only a pretrained encoder."""
    return "BertForSequenceClassification" in (read_config(folder).get("architectures") or [])


def class_names(folder: Path) -> list[str]:
    """Returns the names of the classifier's outputs, in order; a regression model has one output."""
    id2label = read_config(folder).get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return [str(id2label[str(i)]) for i in range(len(id2label))]


def weights_key(folder: Path) -> str:
    """Returns a hash of a model: its tensors, and the fields of its config.json in `ARCHITECTURE`.

    The same model saved again has the same key, whatever else is in its configuration, the header of its weight file
    or beside them.
    """
    config = {**ARCHITECTURE, **read_config(folder)}
    digest = hashlib.sha256(json.dumps([config[name] for name in ARCHITECTURE]).encode())
    with (folder / WEIGHTS).open("rb") as file:
        # Format: length of the header as 8 bytes, the header as JSON, then the tensors at its offsets
        # (https://huggingface.co/docs/safetensors). The library has no bfloat16 for NumPy, so the bytes are read here.
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        for name in sorted(header.keys() - {"__metadata__"}):
            tensor = header[name]
            start, end = tensor["data_offsets"]
            digest.update(json.dumps([name, tensor["dtype"], tensor["shape"]]).encode())
            file.seek(8 + length + start)
            digest.update(file.read(end - start))
    return digest.hexdigest()[:16]
