"""Tiny real files for every test: an MRPC folder that is quickly learnt, and a small BERT with its tokenizer."""

import os
import random
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for the network

WORDS = "red green blue round square small large old new quick slow warm cold near far".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "same", "other", ".", *WORDS]
TINY_LAYERS = 4


def write_mrpc(folder: Path, *, train: int = 96, dev: int = 40, test: int = 8, seed: int = 0) -> None:
    """Writes MRPC files in which the word `same` or `other` in the second sentence gives the class away."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    for name, rows in (("train", train), ("dev", dev), ("test", test)):
        lines = []
        for i in range(rows):
            label = int(rng.random() < 0.6)
            first = " ".join(rng.choices(WORDS, k=rng.randint(2, 6))) + " ."
            second = " ".join([*rng.choices(WORDS, k=rng.randint(1, 5)), "same" if label else "other"]) + " ."
            lines.append("\t".join([str(i if name == "test" else label), str(i), str(1000 + i), first, second]))
        header = "\t".join(["index" if name == "test" else "Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"])
        text = "\n".join([header, *lines]) + "\n"
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8" if name == "test" else "utf-8-sig")


def write_bert(folder: Path, *, layers: int = TINY_LAYERS, seed: int = 0) -> None:
    """Writes an ordinary Hugging Face folder with a small, randomly initialised BERT encoder."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.15,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a data folder that tests share and must not change: MRPC and the model `tiny`."""
    data_dir = tmp_path_factory.mktemp("tiny") / "data"
    write_mrpc(data_dir / "data_raw" / "MRPC")
    write_bert(data_dir / "models" / "pretrained" / "tiny")
    return data_dir


@pytest.fixture
def tiny_space(tmp_path: Path) -> Path:
    """Returns a space file whose trainings take a second."""
    path = tmp_path / "tiny.toml"
    path.write_text(
        """
[search]
trials = 4
[teacher]
epochs = 6
learning_rate = 3e-3
[training]
epochs = 2
batch_size = 16
max_length = 32
evaluations_per_epoch = 2
[space]
alpha = { low = 0.2, high = 0.9 }
beta = { low = 1.0, high = 100.0, log = true }
temperature = 10
learning_rate = { low = 5e-4, high = 5e-3, log = true }
strategy = { choices = ["skip", "last"] }
normalize = { choices = [true, false] }
"""
    )
    return path
