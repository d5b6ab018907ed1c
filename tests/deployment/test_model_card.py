"""The model card of a student."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from huggingface_hub import ModelCard, ModelCardData

from pkd_tune.config import HubDataset, Task, TaskSplit
from pkd_tune.data.glue import TASKS
from pkd_tune.deployment.model_card import METRIC_TYPES, write_card
from pkd_tune.files import write_json

SETTINGS = {
    "alpha": 0.5,
    "beta": 1000.0,
    "temperature": 5.0,
    "learning_rate": 5e-5,
    "strategy": "skip",
    "normalize": True,
}
STUDENT: dict[str, Any] = {
    "layers": 3,
    "method": "pkd",
    "trial": 7,
    "settings": SETTINGS,
    "imitated_layers": [4, 8],
    "confirmed": None,
    "metrics": {"f1": 86.0, "accuracy": 80.0, "score": 83.0},
    "parameters": 45_000_000,
    "latency_ms": 4.0,
}
TEACHER = {**STUDENT, "layers": 12, "name": "bert-base-uncased", "parameters": 110_000_000, "latency_ms": 16.0}


def card(
    folder: Path,
    *,
    task: Task = TASKS["MRPC"],
    teacher: str = "bert-base-uncased",
    select_on: str = "dev",
    demo: bool = False,
    **student: Any,
) -> str:
    command = "python -m pkd_tune.search --task MRPC"
    write_json(folder / "config.json", {"model_type": "bert"})
    teachers = {**TEACHER, "name": teacher, "metrics": student.get("metrics", TEACHER["metrics"])}
    write_card(STUDENT | student, teachers, task, command, folder, seed=42, demo=demo, select_on=select_on)
    return (folder / "README.md").read_text()


EXPECTED = """
# 3-layer BERT for GLUE MRPC

A BERT model for GLUE MRPC, distilled from a 12-layer teacher (bert-base-uncased) with Patient Knowledge Distillation \
([Sun et al., EMNLP 2019](https://arxiv.org/abs/1908.09355)).
Classes: 0 not_equivalent, 1 equivalent.

| dev split, × 100 | this model | teacher |
| :-- | --: | --: |
| F1 | 86.0 | 86.0 |
| accuracy | 80.0 | 80.0 |
| mean | 83.0 | 83.0 |

The scores are those of the best of several trials, selected on this split, so they are optimistic.
New training runs with the same hyperparameters on other seeds (43, 44) score 81.2 ± 0.6 (mean ± standard deviation).
45.0 M parameters, 41% of the teacher's; 4.0 ms per example, 16.0 ms for the teacher.

Hyperparameters of trial 7 (seed 42; imitated teacher layers: 4, 8):

- alpha: 0.5
- beta: 1000
- temperature: 5
- learning_rate: 5e-5
- strategy: skip
- normalize: yes

Usage:

    from transformers import pipeline

    classify = pipeline("text-classification", "PATH OR NAME OF THIS FOLDER", truncation=True)
    print(classify({"text": "First sentence .", "text_pair": "Second sentence ."}))

Trained with `python -m pkd_tune.search --task MRPC`.
"""


def test_the_student_to_ship_says_so_first(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    verdict = "**Ship** this student: 76.4 ± 0.5 on 3 fresh seeds."
    write_card(STUDENT, TEACHER, TASKS["MRPC"], "command", tmp_path, seed=42, demo=False, verdict=verdict)
    text = (tmp_path / "README.md").read_text()
    assert f"1 equivalent.\n\n{verdict}\n\n| dev split" in text


def test_a_model_of_another_family_is_no_bert(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "modernbert"})
    write_card(STUDENT, TEACHER, TASKS["MRPC"], "command", tmp_path, seed=42, demo=False)
    text = (tmp_path / "README.md").read_text()
    assert "# 3-layer ModernBERT for GLUE MRPC\n\nA ModernBERT model for GLUE MRPC, distilled" in text


def test_a_whole_card(tmp_path: Path) -> None:
    text = card(tmp_path, confirmed={"seeds": [43, 44], "mean": 81.25, "sd": 0.62})
    assert text.split("---\n", maxsplit=2)[2] == EXPECTED


@pytest.mark.parametrize(
    ("method", "says", "settings"),
    [
        ("pkd-last", "with Patient Knowledge Distillation", set(SETTINGS)),
        ("kd", "with vanilla knowledge distillation", {"alpha", "temperature", "learning_rate"}),
        ("finetuned", "A BERT model for GLUE MRPC, fine-tuned without a teacher.", {"learning_rate"}),
    ],
)
def test_it_says_how_the_student_was_trained(tmp_path: Path, method: str, says: str, settings: set[str]) -> None:
    text = card(tmp_path, method=method)
    assert says in text
    assert {name for name in SETTINGS if f"\n- {name}: " in text} == settings


def test_scores_that_selected_the_student_are_called_optimistic(tmp_path: Path) -> None:
    assert "optimistic" in card(tmp_path)
    assert "optimistic" not in card(tmp_path, select_on="holdout")


@pytest.mark.parametrize("name", ["MNLI", "CoLA", "STS-B"])
def test_the_hub_reads_its_scores(tmp_path: Path, name: str) -> None:
    task = TASKS[name]
    splits = [task.split(split) for split in task.dev_splits]
    metrics = {metric + split.suffix: 80.126 for split in splits for metric in task.metrics}
    text = card(tmp_path, task=task, metrics={**metrics, "score": 80.126})
    results = cast(ModelCardData, ModelCard(text).data).eval_results or []
    assert [(each.dataset_split, each.metric_type, each.metric_value) for each in results] == [
        (split.hub, METRIC_TYPES[metric], 80.13) for split in splits for metric in task.metrics
    ]
    assert {"matthews_correlation", "pearsonr", "spearmanr", "accuracy", "f1"} == set(METRIC_TYPES.values())
    assert ("- temperature: " in text) == (not task.regression)


def test_a_task_of_ones_own_is_not_of_glue(tmp_path: Path) -> None:
    own = replace(
        TASKS["MRPC"],
        name="tickets",
        benchmark="",
        hub=None,
        metrics=("macro_f1", "accuracy"),
        score="first",
        splits=(DEV,),
    )
    metrics = {"macro_f1": 70.0, "accuracy": 80.0, "score": 70.0}
    text = card(tmp_path, task=own, metrics=metrics)
    assert "GLUE" not in text.replace("pkd_tune.search --task MRPC", "")
    assert "# 3-layer BERT for tickets" in text
    assert "| mean |" not in text
    data = cast(ModelCardData, ModelCard(text).data)
    assert (data.datasets, data.language) == (None, None)
    assert [(each.dataset_type, each.dataset_config, each.dataset_split) for each in data.eval_results or ()] == [
        ("tickets", None, "dev")
    ] * 2
    on_hub = replace(own, hub=HubDataset(repository="owner/tickets"), splits=(replace(DEV, hub="validation"),))
    data = cast(ModelCardData, ModelCard(card(tmp_path, task=on_hub, metrics=metrics)).data)
    assert data.datasets == ["owner/tickets"]
    assert (data.eval_results or [])[0].dataset_split == "validation"
    stars = replace(own, kind="regression", labels=(), metrics=("pearson",))
    assert "Its output is a number." in card(tmp_path, task=stars, metrics={"pearson": 50.0, "score": 50.0})


DEV = TaskSplit(part="dev", file="dev.csv")


@pytest.mark.parametrize("name", ["a: b", "- [x]", "#1", "'", '"', "{x}", "yes"])
def test_any_name_is_valid_metadata(tmp_path: Path, name: str) -> None:
    text = card(tmp_path, task=replace(TASKS["MRPC"], name=name))
    data = cast(ModelCardData, ModelCard(text).data)
    assert {each.dataset_name for each in data.eval_results or []} == {f"GLUE {name}"}
    assert data.model_name == f"{name}-3-layer"


def test_a_name_cannot_add_markup(tmp_path: Path) -> None:
    text = card(tmp_path, teacher="<script>x</script> *y* [z](http://z)")
    assert r"teacher (&lt;script>x&lt;/script> \*y\* [z\](http://z))" in text


def test_a_demo_does_not_pass_for_glue(tmp_path: Path) -> None:
    text = card(tmp_path, demo=True)
    assert "a synthetic demo corpus in the format of MRPC" in text
    assert "nyu-mll/glue" not in text
    made_up = card(tmp_path, demo=True, task=replace(TASKS["MRPC"], name="tickets", benchmark=""))
    assert "for the demo's task tickets" in made_up


def test_the_model_that_it_was_cut_from_is_named_with_its_licence_where_they_are_known(tmp_path: Path) -> None:
    start = tmp_path / "models--owner--base-model" / "snapshots" / "0123"
    start.mkdir(parents=True)
    write_json(tmp_path / "config.json", {"model_type": "bert"})

    def metadata() -> ModelCardData:
        write_card(STUDENT, TEACHER, TASKS["MRPC"], "command", tmp_path, seed=42, demo=False, start=start)
        return cast(ModelCardData, ModelCard((tmp_path / "README.md").read_text()).data)

    assert metadata().base_model == "owner/base-model"
    assert metadata().license is None
    (start / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    assert metadata().license == "apache-2.0"
    assert metadata().pipeline_tag == "text-classification"
    for metadata_of_another in (
        b"title: My model: the best",
        b"license:\n\tmit",
        b"- license",
        b"license: \xff",
        b"license: [mit]",
        b"x: " + b"[" * 10**5,
    ):
        (start / "README.md").write_bytes(b"---\n" + metadata_of_another + b"\n---\n# Base\n")
        assert metadata().license is None
    assert metadata().datasets == ["nyu-mll/glue"]
    start = start.rename(tmp_path / "local")
    assert metadata().base_model is None
    assert metadata().license is None
