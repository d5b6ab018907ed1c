"""The demo's folder: that it repeats, holds several tasks, spares foreign files, and is a fair miniature of GLUE."""

import json
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertModel

from pkd_tune.config import UserError
from pkd_tune.data.demo import DEMO_TASKS, write_demo
from pkd_tune.data.demo.corpora import CORPORA
from pkd_tune.data.demo.model import KINDS, LATER_KINDS, vocabulary

SPACE = tomllib.loads((files("pkd_tune.search_spaces") / "demo.toml").read_text(encoding="utf-8"))
TRAIN_SIZE = CORPORA["MRPC"].sizes["train"]


def rows(data_dir: Path, split: str) -> list[list[str]]:
    text = (data_dir / "data_raw" / "MRPC" / f"{split}.tsv").read_text(encoding="utf-8-sig")
    return [line.split("\t") for line in text.splitlines()[1:]]


def contents(data_dir: Path) -> dict[str, bytes]:
    """Returns every file but locks, which hold nothing."""
    paths = [path for path in data_dir.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(data_dir)): path.read_bytes() for path in paths}


def times(data_dir: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in data_dir.rglob("*") if path.is_file()}


def test_no_word_has_two_meanings() -> None:
    words = [word for kind in (*KINDS, *LATER_KINDS) for concept in kind for word in concept]
    assert len(words) == len(set(words))
    assert all(len(concept) == 2 for kind in (*KINDS, *LATER_KINDS) for concept in kind)
    assert len(vocabulary()) == len(set(vocabulary()))


def test_the_folder_loads_like_any_bert(demo_data: Path) -> None:
    model, report = BertModel.from_pretrained(demo_data / "models" / "pretrained" / "demo", output_loading_info=True)
    assert not any(report.values())
    assert model.pooler is not None
    assert model.config.model_type == "bert"
    assert model.config.num_hidden_layers == 4
    assert model.config.vocab_size == len(vocabulary())
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


def test_one_seed_gives_one_result(demo_data: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    # In another order than before: what one task's files are depends on no other.
    for task in reversed(DEMO_TASKS):
        write_demo(tmp_path / "again", task)
    assert torch.equal(torch.get_rng_state(), state)
    again, before = contents(tmp_path / "again"), contents(demo_data)
    assert json.loads(again.pop("demo.json")) == json.loads(before.pop("demo.json"))
    assert again == before

    write_demo(tmp_path / "other", "RTE", seed=1)
    for name in ("data_raw/RTE/train.tsv", "models/pretrained/demo/model.safetensors"):
        assert contents(tmp_path / "other")[name] != before[name]


@pytest.mark.parametrize(("task", "folders"), [("WNLI", {"WNLI"}), ("AX", {"AX", "MNLI"})])
def test_only_what_a_task_needs_is_written(demo_data: Path, tmp_path: Path, task: str, folders: set[str]) -> None:
    write_demo(tmp_path, task)
    made, before = contents(tmp_path), contents(demo_data)
    assert {Path(name).parts[1] for name in made if name.startswith("data_raw")} == folders
    assert all(content == before[name] for name, content in made.items() if name != "demo.json")


def test_a_second_call_writes_nothing_and_repairs_what_is_broken(tmp_path: Path) -> None:
    model_dir = write_demo(tmp_path, "AX")
    before, written_at = contents(tmp_path), times(tmp_path)
    assert write_demo(tmp_path, "AX") == write_demo(tmp_path, "MNLI") == model_dir
    assert times(tmp_path) == written_at

    (model_dir / "model.safetensors").write_bytes(b"cut short")
    (tmp_path / "data_raw" / "MNLI" / "dev_matched.tsv").unlink()
    write_demo(tmp_path, "AX")
    assert contents(tmp_path) == before


def test_a_task_leaves_the_files_of_another_alone(tmp_path: Path) -> None:
    write_demo(tmp_path, "MRPC")
    mine = tmp_path / "data_raw" / "MRPC" / "notes.txt"
    mine.write_text("mine\n", encoding="utf-8")
    broken = tmp_path / "data_raw" / "MRPC" / "dev.tsv"
    broken.write_text("changed by hand\n", encoding="utf-8")
    before = times(tmp_path)
    write_demo(tmp_path, "CoLA")
    changed = {path.name for path, time in before.items() if times(tmp_path)[path] != time}
    assert changed <= {"demo.json", ".demo.lock"}
    written_at = times(tmp_path)
    write_demo(tmp_path, "CoLA")
    assert times(tmp_path) == written_at


def test_files_of_another_origin_are_left_alone(tmp_path: Path) -> None:
    write_demo(tmp_path, "MRPC")
    real = tmp_path / "data_raw" / "RTE" / "train.tsv"
    real.parent.mkdir(parents=True)
    real.write_text("the real one\n", encoding="utf-8")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"RTE.train\.tsv is not the demo's"):
        write_demo(tmp_path, "RTE")
    assert contents(tmp_path) == before
    # The others still work.
    write_demo(tmp_path, "MRPC")


def test_the_record_names_every_file(demo_data: Path) -> None:
    record = json.loads((demo_data / "demo.json").read_text(encoding="utf-8"))
    assert set(record["made"]) == {"models/pretrained/demo", *(f"data_raw/{task}" for task in DEMO_TASKS)}
    assert set(record["files"]) == set(contents(demo_data)) - {"demo.json"}


def test_what_an_older_version_wrote_is_replaced(demo_data: Path, tmp_path: Path) -> None:
    # The first version's record knew one task.
    write_demo(tmp_path, "MRPC")
    record = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))
    older = {"seed": 0, "generator": "another", "files": record["files"]}
    (tmp_path / "demo.json").write_text(json.dumps(older), encoding="utf-8")
    (tmp_path / "data_raw" / "MRPC" / "train.tsv").write_text("as it was then\n", encoding="utf-8")
    write_demo(tmp_path, "MRPC")
    assert json.loads((tmp_path / "demo.json").read_text(encoding="utf-8")) == record
    assert rows(tmp_path, "train") == rows(demo_data, "train")


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
    steps = epochs * (TRAIN_SIZE // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=steps, pct_start=0.1, anneal_strategy="linear", cycle_momentum=False
    )

    def logits(batch: Batch) -> torch.Tensor:
        inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
        scores: torch.Tensor = head(bert(**inputs).pooler_output)
        return scores

    for _ in range(epochs):
        for chosen in torch.randperm(TRAIN_SIZE).view(-1, 32):
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
def test_depth_matters_as_it_does_in_glue(demo_data: Path) -> None:
    train, dev = encoded(demo_data, "train"), encoded(demo_data, "dev")
    teacher = dev_accuracy(demo_data, train, dev, layers=4, epochs=SPACE["teacher"]["epochs"])
    two, one = (dev_accuracy(demo_data, train, dev, layers=k, epochs=SPACE["training"]["epochs"]) for k in (2, 1))
    majority = max((dev["labels"] == label).float().mean().item() for label in (0, 1))
    # Each step is at least two standard errors of a 500-pair score.
    assert teacher >= 0.90
    assert teacher - two >= 0.03
    assert two - one >= 0.02
    assert one - majority >= 0.02
