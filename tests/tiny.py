"""Writers of tiny real files: an MRPC folder that is quickly learnt, and a small BERT with its tokenizer."""

import random
from pathlib import Path

from glue_files import layout_of

from pkd_tune.config import Task

WORDS = "red green blue round square small large old new quick slow warm cold near far".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "same", "other", ".", *WORDS]
TINY_LAYERS = 4
SPACE = """
[search]
trials = 4
control_trials = 0
seeds = 0
[teacher]
epochs = 6
learning_rates = [3e-3]
[training]
epochs = 2
batch_size = 16
max_length = 32
evaluations_per_epoch = 2
init = "pretrained"
[space]
alpha = { low = 0.2, high = 0.9 }
beta = { low = 1.0, high = 100.0, log = true }
temperature = 10
learning_rate = { low = 5e-4, high = 5e-3, log = true }
strategy = { choices = ["skip", "last"] }
normalize = { choices = [true, false] }
"""

TINY_SEARCH = (
    *("--task", "mrpc", "--gpus", "0", "--teacher", "tiny", "--depths", "3,1", "--space", "space.toml"),
    *("--control-trials", "0", "--seeds", "0"),
)
"""Flags of the search that tests share."""


def write_mrpc(
    folder: Path, *, train: int = 96, dev: int = 40, test: int = 8, seed: int = 0, words: tuple[int, int] = (2, 6)
) -> None:
    """Writes MRPC files in which the word `same` or `other` in the second sentence gives the class away.

    A sentence has as many words as `words` says, the fewest and the most.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    for name, rows in (("train", train), ("dev", dev), ("test", test)):
        lines = []
        for i in range(rows):
            label = int(rng.random() < 0.6)
            fewest, most = words
            first = " ".join(rng.choices(WORDS, k=rng.randint(fewest, most))) + " ."
            last = "same" if label else "other"
            second = " ".join([*rng.choices(WORDS, k=rng.randint(fewest - 1, most - 1)), last]) + " ."
            lines.append("\t".join([str(i if name == "test" else label), str(i), str(1000 + i), first, second]))
        header = "\t".join(["index" if name == "test" else "Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"])
        text = "\n".join([header, *lines]) + "\n"
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8" if name == "test" else "utf-8-sig")


def write_bert(
    folder: Path,
    *,
    layers: int = TINY_LAYERS,
    width: int = 32,
    heads: int = 2,
    intermediate: int = 64,
    positions: int = 128,
    spread: float = 0.15,
    dropout: float = 0.1,
    seed: int = 0,
) -> None:
    """Writes an ordinary Hugging Face folder with a small, randomly initialised BERT encoder."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    BertTokenizer(vocab=str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=positions,
        initializer_range=spread,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)


def write_task(task: Task, data_dir: Path, *, train: int = 96, dev: int = 40, test: int = 8, seed: int = 0) -> None:
    """Writes a task's files in its own format; the last word of its last sentence gives the label away."""
    rng = random.Random(seed)
    folder = data_dir / "data_raw" / task.name
    folder.mkdir(parents=True)
    for split in task.splits:
        layout = layout_of(task, split.name)
        lines = [] if layout.header is None else ["\t".join(layout.header)]
        for i in range({"train": train, "dev": dev, "test": test}[split.part]):
            kind = rng.randrange(3 if task.regression else task.outputs)
            cells = [str(i)] * len(layout.header or ("source", "label", "star", "sentence"))
            cells[layout.sentence1] = " ".join(rng.choices(WORDS[:-3], k=rng.randint(2, 6)))
            last = layout.sentence1 if layout.sentence2 is None else layout.sentence2
            cells[last] = " ".join([*rng.choices(WORDS[:-3], k=rng.randint(1, 5)), WORDS[-3 + kind]])
            if layout.label is not None:
                cells[layout.label] = f"{2.5 * kind:.3f}" if task.regression else task.raw_labels[kind]
            lines.append("\t".join(cells))
        (folder / f"{split.file}").write_text("\n".join(lines) + "\n", encoding="utf-8")
