"""Hugging Face model folders, checked and described without loading the model or importing torch."""

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pkd_tune.config import Task, UserError
from pkd_tune.data.tokens import TOKENIZER_MAIN_FILES, file_hash, needs_sentencepiece, read_tokenizer
from pkd_tune.encoders.families import BERT_SETTINGS, FAMILIES, Family, refusal
from pkd_tune.files import TRAINING, read_json

WEIGHTS = "model.safetensors"
"""Name of the weight file."""

WEIGHTS_INDEX = "model.safetensors.index.json"
"""Names the weight files of a model that is saved in several, by tensor."""

MULTI_LABEL = "multi_label_classification"
"""What config.json calls a classifier that decides about every class on its own."""

LARGEST_SIZE = 10_000_000
"""Of a size in config.json; the largest vocabularies have a million entries."""


def model_name(folder: Path) -> str:
    """Returns a model's name in reports and folder names: the folder's, or for a hub snapshot the repository's.

    The hub's cache keeps google-bert/bert-base-uncased in `models--google-bert--bert-base-uncased/snapshots/<commit>`.
    """
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.split("--")[-1]
    return folder.name


def hub_name(folder: Path) -> str | None:
    """Returns the repository, `owner/name`, of a folder in the hub's cache; None for any other folder."""
    cached = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not cached.startswith("models--"):
        return None
    return cached.removeprefix("models--").replace("--", "/", 1)


BERT_BASE: dict[str, int] = {
    name: BERT_SETTINGS[name]
    for name in (
        *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
        "max_position_embeddings",
    )
}
"""Sizes of a model, with those of BERT-base."""

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


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
        ValueError: When it is not JSON, not UTF-8, not an object, or nested too deeply to be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return content


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the folder's config.json.

    Raises:
        ValueError: When it is not a JSON object.
    """
    return read_object(folder / "config.json")


def family_of(folder: Path) -> Family:
    """Returns the family of the model in a folder in which `encoder_problems()` finds none."""
    return FAMILIES[read_config(folder)["model_type"]]


def sizes(folder: Path) -> dict[str, int]:
    """Returns the sizes of the model in a folder under the names of `BERT_BASE`, whatever its family calls them."""
    family, config = family_of(folder), read_config(folder)
    return {name: int(family.value(config, name)) for name in BERT_BASE}


def encoder_problems(folder: Path, flag: str) -> list[str]:
    """Returns the problems of the encoder in a folder, one line each, that begin with the flag that names it."""
    if not (folder / "config.json").is_file():
        return [f"{flag} {folder}: no config.json there; give a folder written by save_pretrained"]
    try:
        config = read_config(folder)
    except ValueError:
        return [f"{flag} {folder}: config.json is not a JSON object; download or save the model again"]
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        return [f"{flag} {folder}: {refusal(config.get('model_type'))}"]
    problems = []
    if wrong := _unsupported(config):
        problems.append(f"{flag} {folder}: {wrong}")
    elif wrong := _config_problem(family, config):
        problems.append(f"{flag} {folder}: {wrong}; download or save the model again")
    elif not (folder / WEIGHTS).is_file() and not (folder / WEIGHTS_INDEX).is_file():
        problems.append(f"{flag} {folder}: no {WEIGHTS} there; convert the weights to safetensors (save_pretrained)")
    elif unreadable := [path.name for path in sorted(folder.glob("*.safetensors")) if not os.access(path, os.R_OK)]:
        problems.append(f"{flag} {folder}: {unreadable[0]} cannot be read by this user; have its permissions changed")
    elif wrong := _weights_problem(folder, family, config):
        problems.append(f"{flag} {folder}: {wrong}; download or save the model again")
    if not any((folder / name).is_file() for name in TOKENIZER_MAIN_FILES):
        problems.append(f"{flag} {folder}: no tokenizer there; add {' or '.join(TOKENIZER_MAIN_FILES)}")
    for name in (name for name in TOKENIZER_JSON if (folder / name).is_file()):
        if wrong := _tokenizer_problem(folder / name):
            problems.append(f"{flag} {folder}: {wrong}; download or save the tokenizer again")
    if not problems:
        try:
            wrong = _vocabulary_problem(folder, family.value(config, "vocab_size"))
        except UserError as error:  # which names the folder
            return [f"{flag} {problem}" for problem in error.problems]
        if wrong:
            problems.append(f"{flag} {folder}: {wrong}; give the tokenizer that belongs to the model")
    return problems


def _tokenizer_problem(path: Path) -> str | None:
    """Returns the problem of one of the tokenizer's JSON files, if it has one."""
    try:
        content = read_object(path)
    except ValueError:
        return f"{path.name} is not a JSON object"
    if missing := [part for part in TOKENIZER_JSON[path.name] if part not in content]:
        return f"{path.name} has no {missing[0]}"
    limit = content.get("model_max_length", 1) if path.name == "tokenizer_config.json" else 1
    if limit is not None and not (_number(limit) and limit >= 1):
        return f"model_max_length in {path.name} is {limit!r}, but must be a number above 0"
    return None


def _vocabulary_problem(folder: Path, vocab_size: int) -> str | None:
    """Returns the problem of a tokenizer that has a token whose id the model has no embedding for, if it has one.

    Raises:
        UserError: A SentencePiece model, which is converted to count its tokens, cannot be.
    """
    name = next(name for name in TOKENIZER_MAIN_FILES if (folder / name).is_file())
    if needs_sentencepiece(folder):
        ids = list(read_tokenizer(folder).get_vocab().values())
    else:
        try:
            ids = _token_ids(folder / name)
        except (AttributeError, KeyError, TypeError, ValueError):
            return f"{name} has no vocabulary of tokens and ids"
    if (highest := max(ids, default=-1)) < vocab_size:
        return None
    return f"{name} has token ids up to {highest}, but vocab_size in config.json is {vocab_size}"


def _token_ids(path: Path) -> list[int]:
    """Returns the token ids in a tokenizer's main file, or the highest of them; added tokens have theirs beside it.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: When the file has no vocabulary.
    """
    added = path.parent / "added_tokens.json"
    ids = [int(number) for number in read_object(added).values()] if added.is_file() else []
    if path.name == "vocab.txt":
        with path.open(encoding="utf-8", errors="replace") as lines:
            return [*ids, sum(1 for _ in lines) - 1]
    content = read_object(path)
    if path.name == "vocab.json":
        return [*ids, *map(int, content.values())]
    vocabulary = content["model"]["vocab"]
    of_model = vocabulary.values() if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
    return [*of_model, *(token["id"] for token in content["added_tokens"])]


def _unsupported(config: dict[str, Any]) -> str | None:
    """Returns the setting of a config.json that is possible but not supported, and the remedy, if there is one."""
    positions = config.get("position_embedding_type", "absolute")
    if positions != "absolute":
        return (
            f"position_embedding_type in config.json is {positions!r}, but only 'absolute' is supported; give another "
            "model"
        )
    if config.get("is_decoder"):
        return (
            "is_decoder in config.json is true, so that the first token would not see the rest of the text; set it to "
            "false, or give another model"
        )
    if config.get("quantization_config") is not None:
        return (
            "quantization_config in config.json says that its weights are quantised, with which nothing can be "
            "trained; give the model that was quantised"
        )
    if config.get("pad_token_id", 0) is None:
        return "pad_token_id in config.json is null; set it to the id of the tokenizer's padding token"
    return None


def _config_problem(family: Family, config: dict[str, Any]) -> str | None:
    """Returns the first impossible value in a config.json, if any."""
    for name in BERT_BASE:
        value = family.value(config, name)
        if not _whole(value) or not 1 <= value <= LARGEST_SIZE:
            return f"{family.name(name)} in config.json must be a whole number above 0, at most {LARGEST_SIZE:,}"
    width, heads = family.value(config, "hidden_size"), family.value(config, "num_attention_heads")
    if width % heads:
        return (
            f"{family.name('hidden_size')} {width} in config.json is not a multiple of "
            f"{family.name('num_attention_heads')} {heads}"
        )
    act = family.value(config, "hidden_act")
    if act not in ACTIVATIONS:
        return f"{family.name('hidden_act')} in config.json is {act!r}, which transformers does not know"
    for name in family.settings.keys() & config.keys():
        if wrong := _setting_problem(name, config[name], family.value(config, "vocab_size")):
            return f"{name} in config.json is {config[name]!r}, but must be {wrong}"
    if not _numbered(config.get("id2label")):
        return 'id2label in config.json must name the classes "0", "1" and so on'
    return None


def _setting_problem(name: str, value: object, vocab_size: int) -> str | None:
    """Returns what a setting of a config.json must be, if it is not that; the kind of a setting shows in its name."""
    if "dropout" in name:
        may_be_absent = name in ("classifier_dropout", "cls_dropout")
        right = (may_be_absent and value is None) or (_number(value) and 0 <= value < 1)  # type: ignore[operator]
        return None if right else "a number from 0 to below 1"
    if name.endswith("_eps") or name == "initializer_range":
        return None if _number(value) and 0 < value <= 1 else "a number above 0, at most 1"  # type: ignore[operator]
    if name == "type_vocab_size":
        return None if _whole(value) and 0 <= value <= LARGEST_SIZE else "a whole number"  # type: ignore[operator]
    if name == "pad_token_id":
        inside = _whole(value) and 0 <= value < vocab_size  # type: ignore[operator]
        return None if inside else f"a token id, below vocab_size {vocab_size}"
    return None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _numbered(id2label: Any) -> bool:
    """Returns whether `id2label` is missing or has the keys "0", "1" and so on."""
    return id2label is None or (
        isinstance(id2label, dict) and id2label.keys() == {str(i) for i in range(len(id2label))}
    )


def _weights_problem(folder: Path, family: Family, config: dict[str, Any]) -> str | None:
    """Returns how the headers of the weight files contradict config.json, if they do."""
    try:
        shapes = _weight_shapes(folder, family)
    except SafetensorError as error:
        return f"{WEIGHTS} cannot be read ({error})"
    except ValueError as error:
        return str(error)

    def value(setting: str) -> Any:
        return family.value(config, setting)

    width, words = value("hidden_size"), config.get("embedding_size", family.settings.get("embedding_size"))
    expected = {f"{family.words}.weight": [value("vocab_size"), words or width]}
    if family.positions is not None:
        expected[f"{family.positions}.weight"] = [value("max_position_embeddings"), words or width]
    last = f"{family.layers}.{value('num_hidden_layers') - 1}.{family.last_matrix}.weight"
    expected[last] = [width, value("intermediate_size")]
    for name, shape in expected.items():
        if name not in shapes:
            return f"{WEIGHTS} has no {name}, although config.json implies it"
        if shapes[name] != shape:
            return f"{name} in {WEIGHTS} has shape {shapes[name]}, but config.json says {shape}"
    outputs = [name for name, letters in family.head_tensors.items() if letters.startswith("C") and name in shapes]
    if outputs and not has_classifier(folder):
        saved_as = config.get("architectures") or ["no architecture"]
        return (
            f"{outputs[0]} in {WEIGHTS} is the output layer of another task ({saved_as[0]} in config.json); give an "
            "encoder without one, or a classifier of texts"
        )
    return None


def weight_files(folder: Path) -> list[Path]:
    """Returns the weight files of a folder: one, or the shards that its index names, in the order of their names.

    Raises:
        ValueError: When the index is damaged, or names a file outside the folder or one that is not there.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    try:
        names = sorted(set(read_object(folder / WEIGHTS_INDEX)["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        names = []
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise ValueError(f"{WEIGHTS_INDEX} does not name the weight files")
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(f"{WEIGHTS_INDEX} names {name}, which is not there")
    return [folder / name for name in names]


def weight_bytes(folder: Path) -> int:
    """Returns the size of a model's weight files in bytes."""
    return sum(path.stat().st_size for path in weight_files(folder))


def _weight_shapes(folder: Path, family: Family) -> dict[str, list[int]]:
    """Returns the shape of every tensor in the weight files by name, without the prefix of the encoder."""
    shapes = {}
    for path in weight_files(folder):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118
                shapes[name.removeprefix(f"{family.encoder}.")] = file.get_slice(name).get_shape()
    return shapes


def classifier_problems(folder: Path, flag: str, task: Task) -> list[str]:
    """Returns the first problem of using the classifier in a folder for a task; empty where there is no classifier.

    Args:
        folder: One in which `encoder_problems()` finds none.
        flag: The flag that names the folder.
        task: The task to classify.
    """
    if not has_classifier(folder):
        return []
    remedy = f"give a model fine-tuned for {task.name}"
    family, names, width = family_of(folder), class_names(folder), sizes(folder)["hidden_size"]
    if len(names) != task.outputs:
        return [
            f"{flag} {folder}: its classifier has {len(names)} outputs, but {task.name} needs {task.outputs}; {remedy}"
        ]
    if (problem_type := read_config(folder).get("problem_type")) == MULTI_LABEL:
        return [
            f"{flag} {folder}: problem_type in config.json is {problem_type!r}, so that a text has any number of "
            f"classes, but in {task.name} it has one; {remedy}"
        ]
    shapes = _weight_shapes(folder, family)
    for name, letters in family.head_tensors.items():
        shape = [{"C": task.outputs, "H": width}[letter] for letter in letters]
        if name not in shapes:
            return [f"{flag} {folder}: {WEIGHTS} has no {name}, which the classifier needs; {remedy}"]
        if shapes[name] != shape:
            return [f"{flag} {folder}: {name} has shape {shapes[name]}, but config.json says {shape}; {remedy}"]
    if class_order(folder, task.labels) is None:
        return [
            f"{flag} {folder}: its classes are {', '.join(names)}, but {task.name} has {', '.join(task.labels)}; "
            f"{remedy}, or correct id2label in its config.json"
        ]
    return []


def class_order(folder: Path, labels: Sequence[str]) -> tuple[int, ...] | None:
    """Returns the output of the classifier in a folder for each of these labels, by name; None where names differ.

    Without labels, for a regression, it is the one output.

    Case, spaces and punctuation do not matter. Generic names such as LABEL_1 or 1 stand for the label of that number.
    """
    if not labels:
        return (0,)
    names, numbers = class_names(folder), range(len(labels))
    plain = [_plain(name) for name in names]
    for found, own in (
        (names, [*labels]),
        (plain, [_plain(label) for label in labels]),
        (plain, [f"label{i}" for i in numbers]),
        (plain, [str(i) for i in numbers]),
    ):
        if len(set(own)) == len(own) and sorted(found) == sorted(own):
            return tuple(found.index(name) for name in own)
    return None


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def position_limit(folder: Path) -> int:
    """Returns the longest input that the model in a folder has positions for, in tokens."""
    return positions(family_of(folder), read_config(folder))


def positions(family: Family, config: Mapping[str, Any]) -> int:
    """Returns the longest input that a model of this family and config.json has positions for, in tokens."""
    skipped = int(family.value(config, "pad_token_id")) + 1 if family.positions_follow_padding_id else 0
    return int(family.value(config, "max_position_embeddings")) - skipped


def length_limit(folder: Path) -> int:
    """Returns the longest input of the model in a folder, in tokens: what model and tokenizer allow."""
    path = folder / "tokenizer_config.json"
    allowed = read_object(path).get("model_max_length") if path.is_file() else None
    # Without a limit it is a huge number, which some releases write as a float.
    return position_limit(folder) if allowed is None else min(position_limit(folder), int(allowed))


def layer_count(folder: Path) -> int:
    """Returns the depth N of the encoder in a folder."""
    return sizes(folder)["num_hidden_layers"]


def has_classifier(folder: Path) -> bool:
    """Returns whether a folder holds a fine-tuned classifier rather than only a pretrained encoder."""
    architectures = read_config(folder).get("architectures")
    return isinstance(architectures, list) and any(
        str(each).endswith("ForSequenceClassification") for each in architectures
    )


def class_names(folder: Path) -> list[str]:
    """Returns the names of the classifier's outputs, in order; a regression model has one output."""
    id2label = read_config(folder).get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return [str(id2label[str(i)]) for i in range(len(id2label))]


def changed_files(folder: Path) -> list[str]:
    """Returns the files of a fine-tuned model that are gone, or are not what its training.json says."""
    try:
        files: dict[str, str] = read_json(folder / TRAINING, ("files",))["files"]
    except (FileNotFoundError, UserError):
        return [TRAINING]
    return [
        name for name, digest in files.items() if not (folder / name).is_file() or file_hash(folder / name) != digest
    ]


def weights_key(folder: Path) -> str:
    """Returns a hash of a model: its tensors, and the fields of its config.json in the `settings` of its family.

    The same model saved again has the same key, whatever else is in its configuration, the headers of its weight files
    or beside them, and in however many files.
    """
    family, config = family_of(folder), read_config(folder)
    digest = hashlib.sha256(json.dumps([family.value(config, name) for name in family.settings]).encode())
    found: dict[str, tuple[dict[str, Any], Path, int]] = {}
    for path in weight_files(folder):
        with path.open("rb") as file:
            # Format: length of the header as 8 bytes, the header as JSON, then the tensors at its offsets
            # (https://huggingface.co/docs/safetensors). The library has no bfloat16 for NumPy, so bytes are read here.
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        found |= {name: (header[name], path, 8 + length) for name in header.keys() - {"__metadata__"}}
    for name in sorted(found):
        tensor, path, offset = found[name]
        start, end = tensor["data_offsets"]
        digest.update(json.dumps([name, tensor["dtype"], tensor["shape"]]).encode())
        with path.open("rb") as file:
            file.seek(offset + start)
            digest.update(file.read(end - start))
    return digest.hexdigest()[:16]


def classifier_key(folder: Path, labels: Sequence[str]) -> str:
    """Returns `weights_key()` of a classifier, or where its classes are in another order, a hash of key and order."""
    key, order = weights_key(folder), class_order(folder, labels)
    if order == tuple(range(max(1, len(labels)))):
        return key
    return hashlib.sha256(f"{key} {order}".encode()).hexdigest()[:16]
