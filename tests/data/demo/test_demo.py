"""The demo's folder: reproducible, shared by tasks, sparing other files, and with scores that depend on depth."""

import json
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertModel

from pkd_tune.config import UserError
from pkd_tune.data.demo import demo_task, write_demo
from pkd_tune.data.demo.model import vocabulary
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_raw

MODEL = "models/pretrained/demo"
SPACE = tomllib.loads((files("pkd_tune.search_spaces") / "demo.toml").read_text(encoding="utf-8"))


def contents(data_dir: Path) -> dict[str, bytes]:
    """Returns all files but locks, which are empty."""
    paths = [path for path in data_dir.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(data_dir)): path.read_bytes() for path in paths}


def times(data_dir: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in data_dir.rglob("*") if path.is_file()}


def test_a_seed_determines_every_file(tmp_path: Path) -> None:
    for folder, tasks in (("one", ("WNLI", "RTE")), ("two", ("RTE", "WNLI"))):
        for task in tasks:
            write_demo(tmp_path / folder, task)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    record = json.loads(one.pop("demo.json"))
    assert record == json.loads(two.pop("demo.json"))
    assert one == two
    assert record["made"].keys() == {MODEL, "data_raw/WNLI", "data_raw/RTE"}
    assert record["files"].keys() == one.keys()
    write_demo(tmp_path / "two", "WNLI", seed=1)
    for name in ("data_raw/WNLI/train.tsv", f"{MODEL}/model.safetensors"):
        assert contents(tmp_path / "two")[name] != one[name]


def test_ax_comes_with_the_task_whose_models_predict_it(tmp_path: Path) -> None:
    write_demo(tmp_path, "AX")
    assert {path.name for path in (tmp_path / "data_raw").iterdir()} == {"AX", "MNLI"}


def test_a_second_call_writes_nothing_and_repairs_damage(tmp_path: Path) -> None:
    model_dir = write_demo(tmp_path, "WNLI")
    before, written_at = contents(tmp_path), times(tmp_path)
    assert write_demo(tmp_path, "WNLI") == model_dir
    assert times(tmp_path) == written_at

    (model_dir / "model.safetensors").write_bytes(b"cut short")
    (tmp_path / "data_raw" / "WNLI" / "dev.tsv").unlink()
    write_demo(tmp_path, "WNLI")
    assert contents(tmp_path) == before


def test_a_task_leaves_the_files_of_another_alone(tmp_path: Path) -> None:
    write_demo(tmp_path, "WNLI")
    mine = tmp_path / "data_raw" / "WNLI" / "notes.txt"
    mine.write_text("mine\n", encoding="utf-8")
    broken = tmp_path / "data_raw" / "WNLI" / "dev.tsv"
    broken.write_text("changed by hand\n", encoding="utf-8")
    before = times(tmp_path)
    write_demo(tmp_path, "RTE")
    changed = {path.name for path, time in before.items() if times(tmp_path)[path] != time}
    assert changed <= {"demo.json", ".demo.lock"}
    written_at = times(tmp_path)
    write_demo(tmp_path, "RTE")
    assert times(tmp_path) == written_at


def test_files_of_another_origin_are_left_alone(tmp_path: Path) -> None:
    write_demo(tmp_path, "WNLI")
    real = tmp_path / "data_raw" / "RTE" / "train.tsv"
    real.parent.mkdir(parents=True)
    real.write_text("the real one\n", encoding="utf-8")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"RTE.train\.tsv was not written by --demo"):
        write_demo(tmp_path, "RTE")
    assert contents(tmp_path) == before
    # The others still work.
    write_demo(tmp_path, "WNLI")


def test_the_files_of_another_generator_are_replaced(tmp_path: Path) -> None:
    write_demo(tmp_path, "WNLI")
    before = contents(tmp_path)
    record = json.loads(before["demo.json"])
    older = {**record, "made": {folder: {"seed": 0, "generator": "another"} for folder in record["made"]}}
    (tmp_path / "demo.json").write_text(json.dumps(older), encoding="utf-8")
    (tmp_path / "data_raw" / "WNLI" / "train.tsv").write_text("as it was then\n", encoding="utf-8")
    write_demo(tmp_path, "WNLI")
    assert contents(tmp_path) == before


Batch = dict[str, torch.Tensor]


def encoded(data_dir: Path, split: str) -> Batch:
    tokenizer = AutoTokenizer.from_pretrained(data_dir / MODEL)
    raw = load_raw(TASKS["MRPC"], data_dir)[split]
    batch = tokenizer(raw.sentence1, raw.sentence2, padding=True, return_tensors="pt")
    return {**batch, "labels": torch.tensor(raw.labels)}


def dev_accuracy(data_dir: Path, train: Batch, dev: Batch, *, layers: int, epochs: int) -> float:
    """Trains the lowest layers in a loop that uses nothing else of the package."""
    torch.manual_seed(0)
    bert = BertModel.from_pretrained(data_dir / MODEL)
    bert.encoder.layer = bert.encoder.layer[:layers]
    head = torch.nn.Linear(bert.config.hidden_size, 2)
    parameters = [*bert.parameters(), *head.parameters()]
    rate = SPACE["teacher"]["learning_rates"][0]
    optimizer = torch.optim.AdamW(parameters, lr=rate, eps=1e-6, weight_decay=0.01)
    size = len(train["labels"])
    steps = epochs * (size // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=steps, pct_start=0.1, anneal_strategy="linear", cycle_momentum=False
    )

    def logits(batch: Batch) -> torch.Tensor:
        inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
        scores: torch.Tensor = head(bert(**inputs).pooler_output)
        return scores

    for _ in range(epochs):
        for chosen in torch.randperm(size).view(-1, 32):
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
def test_scores_depend_on_depth(tmp_path: Path) -> None:
    write_demo(tmp_path, "MRPC")
    train, dev = encoded(tmp_path, "train"), encoded(tmp_path, "dev")
    teacher = dev_accuracy(tmp_path, train, dev, layers=4, epochs=SPACE["teacher"]["epochs"])
    two, one = (dev_accuracy(tmp_path, train, dev, layers=k, epochs=SPACE["training"]["epochs"]) for k in (2, 1))
    majority = max((dev["labels"] == label).float().mean().item() for label in (0, 1))
    # Each difference is at least about two standard errors of the accuracy on 500 pairs.
    assert teacher >= 0.90
    assert teacher - two >= 0.03
    assert two - one >= 0.02
    assert one - majority >= 0.02


def test_there_is_a_demo_of_a_task_file_with_seven_classes(tmp_path: Path) -> None:
    task = demo_task(tmp_path, "tickets")
    assert (task.name, task.text, task.metrics) == ("tickets", ("subject", "body"), ("macro_f1", "accuracy"))
    assert len(task.labels) == 7
    raw = load_raw(task, tmp_path)
    assert {name: len(split) for name, split in raw.items()} == {"train": 3000, "dev": 500, "test": 400}
    assert all(set(split.labels or ()) == set(range(7)) for split in raw.values())
    words = {word for split in raw.values() for text in split.sentence2 or () for word in text.lower().split()}
    assert words <= {*vocabulary()}


def test_a_task_of_ones_own_has_no_demo(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in (str(tmp_path / "mine"), "hub:owner/name"):
        with pytest.raises(UserError, match="--demo has data of its own, for the tasks of GLUE and for tickets"):
            demo_task(tmp_path, name)
    with pytest.raises(UserError, match="did you mean MRPC"):
        demo_task(tmp_path, "mprc")
