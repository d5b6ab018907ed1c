"""The demo's files: their format, that they repeat, and that they are a fair miniature of a distillation task."""

import json
import random
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertModel

from pkd_tune.config import UserError
from pkd_tune.glue import demo

SPACE = tomllib.loads((files("pkd_tune.search_spaces") / "demo.toml").read_text(encoding="utf-8"))
TEXT_COLUMNS = "#1 ID\t#2 ID\t#1 String\t#2 String"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("demo")
    demo.write_demo(data_dir)
    return data_dir


def rows(data_dir: Path, split: str) -> list[list[str]]:
    text = (data_dir / "data_raw" / "MRPC" / f"{split}.tsv").read_text(encoding="utf-8-sig")
    return [line.split("\t") for line in text.splitlines()[1:]]


def contents(data_dir: Path) -> dict[str, bytes]:
    return {str(path.relative_to(data_dir)): path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("split", "first_column"), [("train", "Quality"), ("dev", "Quality"), ("test", "index")])
def test_files_have_the_format_of_mrpc(written: Path, split: str, first_column: str) -> None:
    data = (written / "data_raw" / "MRPC" / f"{split}.tsv").read_bytes()
    # The real train and dev files start with a byte-order mark, the real test file does not.
    assert data.startswith(b"\xef\xbb\xbf") == (split != "test")
    assert data.endswith(b"\n")
    assert data.decode("utf-8-sig").splitlines()[0] == f"{first_column}\t{TEXT_COLUMNS}"
    assert len(rows(written, split)) == demo.SPLIT_SIZES[split]
    assert {len(row) for row in rows(written, split)} == {5}
    labels = [row[0] for row in rows(written, split)]
    if split == "test":
        assert labels == [str(index) for index in range(demo.SPLIT_SIZES["test"])]
    else:
        assert set(labels) == {"0", "1"}


def test_no_sentence_id_is_used_twice(written: Path) -> None:
    ids = [row[column] for split in demo.SPLIT_SIZES for row in rows(written, split) for column in (1, 2)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("split", ["train", "dev"])
def test_labels_are_balanced_as_in_mrpc(written: Path, split: str) -> None:
    share = sum(row[0] == "1" for row in rows(written, split)) / demo.SPLIT_SIZES[split]
    assert 0.60 <= share <= 0.68


def test_no_pair_occurs_twice_in_either_order(written: Path) -> None:
    pairs = [frozenset(row[3:]) for split in demo.SPLIT_SIZES for row in rows(written, split)]
    assert all(len(pair) == 2 for pair in pairs)
    assert len(pairs) == len(set(pairs))


def test_a_changed_meaning_is_never_the_same_again() -> None:
    # Changes follow one another, and a later one must not undo an earlier one: the label would be wrong.
    draw = random.Random(0)
    for _ in range(5000):
        meaning = demo._draw_meaning(draw)
        changed = demo._change(meaning, draw)
        assert changed != meaning
        assert changed.agent != changed.patient


def test_no_word_has_two_meanings() -> None:
    words = [word for kind in demo._KINDS for concept in kind for word in concept]
    assert len(words) == len(set(words))
    assert all(len(concept) == 2 for kind in demo._KINDS for concept in kind)


def test_every_word_is_one_known_token(written: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(written / "models" / "pretrained" / "demo")
    sentences = [sentence for split in demo.SPLIT_SIZES for row in rows(written, split) for sentence in row[3:]]
    for sentence, ids in zip(sentences, tokenizer(sentences, add_special_tokens=False)["input_ids"], strict=True):
        assert tokenizer.convert_ids_to_tokens(ids) == sentence.lower().split()
    both = tokenizer(sentences[::2], sentences[1::2])
    assert max(map(len, both["input_ids"])) <= tokenizer.model_max_length == 64
    assert set(both["token_type_ids"][0]) == {0, 1}


def test_the_folder_loads_like_any_bert(written: Path) -> None:
    model, report = BertModel.from_pretrained(written / "models" / "pretrained" / "demo", output_loading_info=True)
    assert not any(report.values())
    assert model.pooler is not None
    assert model.config.model_type == "bert"
    assert model.config.num_hidden_layers == 4
    assert model.config.vocab_size == len(demo.vocabulary())
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


def test_one_seed_gives_one_result(written: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    demo.write_demo(tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), state)
    assert contents(tmp_path / "again") == contents(written)

    demo.write_demo(tmp_path / "other", seed=1)
    for name in ("data_raw/MRPC/train.tsv", "models/pretrained/demo/model.safetensors"):
        assert contents(tmp_path / "other")[name] != contents(written)[name]


def test_a_second_call_writes_nothing_and_repairs_what_is_broken(tmp_path: Path) -> None:
    model_dir = demo.write_demo(tmp_path)
    before = contents(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert demo.write_demo(tmp_path) == model_dir
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times

    (model_dir / "model.safetensors").write_bytes(b"cut short")
    (tmp_path / "data_raw" / "MRPC" / "dev.tsv").unlink()
    demo.write_demo(tmp_path)
    assert contents(tmp_path) == before


def test_files_of_another_origin_are_left_alone(tmp_path: Path) -> None:
    real = tmp_path / "data_raw" / "MRPC" / "train.tsv"
    real.parent.mkdir(parents=True)
    real.write_text("the real one\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.tsv is not the demo's"):
        demo.write_demo(tmp_path)
    assert contents(tmp_path) == {"data_raw/MRPC/train.tsv": b"the real one\n"}


def test_the_record_names_every_file(written: Path) -> None:
    record = json.loads((written / "demo.json").read_text(encoding="utf-8"))
    assert set(record["files"]) == set(contents(written)) - {"demo.json"}


Batch = dict[str, torch.Tensor]


def encoded(data_dir: Path, split: str) -> Batch:
    tokenizer = AutoTokenizer.from_pretrained(data_dir / "models" / "pretrained" / "demo")
    table = rows(data_dir, split)
    batch = tokenizer([row[3] for row in table], [row[4] for row in table], padding=True, return_tensors="pt")
    return {**batch, "labels": torch.tensor([int(row[0]) for row in table])}


def dev_accuracy(data_dir: Path, train: Batch, dev: Batch, *, layers: int, epochs: int) -> float:
    """Trains a model of so many layers with a plain loop of its own, so that no other part can hide a bad corpus."""
    torch.manual_seed(0)
    bert = BertModel.from_pretrained(data_dir / "models" / "pretrained" / "demo")
    bert.encoder.layer = bert.encoder.layer[:layers]
    head = torch.nn.Linear(bert.config.hidden_size, 2)
    parameters = [*bert.parameters(), *head.parameters()]
    rate = SPACE["teacher"]["learning_rates"][0]
    optimizer = torch.optim.AdamW(parameters, lr=rate, eps=1e-6, weight_decay=0.01)
    steps = epochs * (demo.SPLIT_SIZES["train"] // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=steps, pct_start=0.1, anneal_strategy="linear", cycle_momentum=False
    )

    def logits(batch: Batch) -> torch.Tensor:
        inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
        scores: torch.Tensor = head(bert(**inputs).pooler_output)
        return scores

    for _ in range(epochs):
        for chosen in torch.randperm(demo.SPLIT_SIZES["train"]).view(-1, 32):
            batch = {name: values[chosen] for name, values in train.items()}
            loss = torch.nn.functional.cross_entropy(logits(batch), batch["labels"])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
    bert.eval()
    with torch.no_grad():
        return (logits(dev).argmax(dim=1) == dev["labels"]).float().mean().item()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_depth_matters_as_it_does_in_glue(written: Path) -> None:
    train, dev = encoded(written, "train"), encoded(written, "dev")
    teacher = dev_accuracy(written, train, dev, layers=4, epochs=SPACE["teacher"]["epochs"])
    two, one = (dev_accuracy(written, train, dev, layers=k, epochs=SPACE["training"]["epochs"]) for k in (2, 1))
    majority = max((dev["labels"] == label).float().mean().item() for label in (0, 1))
    # Each step is at least two standard errors of a 500-pair score.
    assert teacher >= 0.90
    assert teacher - two >= 0.03
    assert two - one >= 0.02
    assert one - majority >= 0.02
