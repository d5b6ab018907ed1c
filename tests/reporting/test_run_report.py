"""report.md of recorded runs where they differ from those of test_golden.py, and of unfinished and damaged runs."""

import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from recorded_run import write_run

from pkd_tune.config import Method, SelectOn, UserError
from pkd_tune.files import read_json, write_json
from pkd_tune.reporting.document import markdown
from pkd_tune.reporting.methods import METHOD_INFO
from pkd_tune.reporting.run import read_run, write_rows
from pkd_tune.reporting.run_details import run_details
from pkd_tune.reporting.run_report import results, write_report
from pkd_tune.reporting.verdict import distillation_text, is_at_baseline


def text_of(run: Path) -> str:
    """Returns report.md without drawing anything."""
    read = read_run(run)
    return markdown([*results(read), *run_details(read)])


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edits a JSON record in its place."""
    record = read_json(path)
    edit(record)
    write_json(path, record)


def test_published_figures_stand_beside_students_of_bert_base(tmp_path: Path) -> None:
    bert: dict[str, Any] = {
        "task": "RTE",
        "teacher": "bert-base-uncased",
        "teacher_layers": 12,
        "depths": (3, 6),
        "trials": 4,
    }
    text = text_of(write_run(tmp_path / "RTE" / "bert", **bert))
    assert "| published, dev | hyperparameters |" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| PKD, 6 layers |") and "lr" in line]
    assert "| 68.2 (accuracy) |" in row
    assert "| PKD, 3 layers | 62.1 | 62.5 | – | 58.2 |" in text
    assert "| PKD, 6 layers | 68.2 | 68.2 | 66.5 | 65.5 |" in text
    assert "dev and test scores are not comparable" in text
    own = write_run(tmp_path / "tickets" / "bert", **bert)
    change(own / "run.json", lambda record: record["search"]["data"]["task"].update(name="tickets", benchmark=""))
    assert "ublished" not in text_of(own)
    demo = text_of(write_run(tmp_path / "RTE" / "demo", **bert, demo=True))
    assert "published" not in demo
    assert "synthetic demo corpus" in demo


def test_what_each_node_did_is_said_where_there_was_more_than_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "nodes", depths=(1, 2))
    evaluations = pd.read_csv(run / "evaluations.csv")
    of_first = (evaluations["depth"] == 1) & (evaluations["method"] == "pkd") & (evaluations["trial"] == 0)
    evaluations["node"] = "10.0.0.2"
    evaluations.to_csv(run / "evaluations.csv", index=False)
    work = [{"job": "teacher at learning rate 5e-05", "node": "10.0.0.2"}]
    change(run / "run.json", lambda record: record.update(work=work))
    assert "Nodes: " not in text_of(run)
    evaluations.loc[of_first & (evaluations["stage"] == "search"), "node"] = "10.0.0.3"
    evaluations.to_csv(run / "evaluations.csv", index=False)
    trials = len(evaluations.drop_duplicates(["depth", "method", "stage", "trial"]))
    first = f"10.0.0.2: teacher at learning rate 5e-05 and {trials - 1} trials"
    assert f"Nodes: {first}; 10.0.0.3: 1 trial." in text_of(run)


def test_a_run_on_gpus_with_eager_steps_says_why(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", trials=4)
    says = "Training steps were not captured as CUDA graphs"
    on_gpu = {"device": "cuda", "count": 2, "per_gpu": 2, "threads": 1}
    assert says not in text_of(run)
    change(run / "run.json", lambda record: record.update(resources={**on_gpu, "eager": None}))
    assert says not in text_of(run)
    change(run / "run.json", lambda record: record.update(resources={**on_gpu, "eager": "loss total differs"}))
    assert f"- {says}: loss total differs." in text_of(run)


SAYS: dict[str, list[str]] = {
    "dev": [
        "| dev split | confirmed score | selection score | F1 |",
        "best trial on the dev split.",
        "dev selected their epochs",
        "epochs selected on the dev split;",
        "train `123456789abc`, dev `",
    ],
    "holdout": [
        "| dev split | confirmed score | selection score (held-out slice) | F1 |",
        "best trial on a slice held out of train.",
        "dev played no part in the choice.",
        "the best score on the held-out slice; dev was scored once",
        "epochs selected on a slice held out of train; dev is scored once",
        "train `123456789abc`, held out for dev `",
    ],
}


@pytest.mark.parametrize(("select_on", "other"), [("dev", "holdout"), ("holdout", "dev")])
def test_every_score_names_the_examples_that_selected(tmp_path: Path, select_on: SelectOn, other: str) -> None:
    text = text_of(write_run(tmp_path / "MRPC" / "minilm", select_on=select_on))
    assert [words for words in SAYS[select_on] if words not in text] == []
    assert [words for words in SAYS[other] if words in text] == []


def test_without_confirmations_the_report_says_what_is_missing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "CoLA" / "minilm", task="CoLA", seeds=0, trials=4)
    text = text_of(run)
    assert "| Matthews correlation |" in text
    assert "confirmed score" not in text
    assert "No student was confirmed on fresh seeds" in text
    change(run / "run.json", lambda record: record["search"].update(seeds=2))
    assert "The confirmation is incomplete: 0 of 12 training runs" in text_of(run)


def test_a_single_confirmation_has_no_deviation(tmp_path: Path) -> None:
    text = text_of(write_run(tmp_path / "MRPC" / "minilm", seeds=1, trials=4, depths=(2,)))
    assert "(n = 1)" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| KD, 2 layers |") and "(n = 1)" in line]
    assert "±" not in row
    assert "With one fresh seed the variance between seeds is unknown" in text
    assert "With one fresh seed" not in text_of(write_run(tmp_path / "MRPC" / "two", seeds=2, trials=4, depths=(2,)))


def test_the_temperature_of_a_regression_is_not_shown(tmp_path: Path) -> None:
    text = text_of(write_run(tmp_path / "STS-B" / "minilm", task="STS-B", trials=4))
    (row,) = [line for line in text.splitlines() if line.startswith("| PKD, 2 layers |") and "lr" in line]
    assert "α" in row
    assert "T " not in row
    assert "temperature" not in text


def test_what_a_weight_of_0_makes_idle_is_not_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", trials=4)

    def without_soft_labels(record: dict[str, Any]) -> None:
        record["space"]["alpha"] = {"values": [0.0]}

    change(run / "run.json", without_soft_labels)
    change(run / "summary.json", lambda record: [s["settings"].update(alpha=0.0) for s in record["students"]])
    text = text_of(run)
    (row,) = [line for line in text.splitlines() if line.startswith("| PKD, 2 layers |") and "lr" in line]
    assert "β" in row
    assert "T " not in row


def test_a_stage_that_keeps_values_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", trials=4)
    stages = [{"method": "finetuned", "keep": []}, {"method": "kd", "keep": []}, {"method": "pkd", "keep": ["alpha"]}]
    change(run / "run.json", lambda record: record["search"].update(stages=stages, trials=None, sampler="grid"))
    change(run / "summary.json", lambda record: [s["settings"].update(alpha=0.5) for s in record["students"]])
    text = text_of(run)
    assert (
        "- Search: every grid point for fine-tuned, every grid point for KD, then every grid point for PKD with alpha "
        "of the best KD student at depths 2 and 3; grid search," in text
    )
    tuned = [line for line in text.splitlines() if line.startswith("- 3 layers: PKD") and "(difference" in line]
    assert "; PKD, the best of 2, keeps alpha of the best of KD's 3." in tuned[0]
    assert "keeps" not in "".join(tuned[1:])
    # Continued with more trials, KD's best is another one, while PKD's best keeps what it was given.
    of_kd = [index for index, student in enumerate(read_run(run).students) if student["method"] == "kd"]
    change(run / "summary.json", lambda record: [record["students"][i]["settings"].update(alpha=0.3) for i in of_kd])
    tuned = [line for line in text_of(run).splitlines() if line.startswith("- 3 layers: PKD") and "(difference" in line]
    assert "keeps alpha of what was KD's best by then, and KD is the best of 3." in tuned[0]


def test_what_is_there_is_told_where_less_was_asked_for_later(tmp_path: Path) -> None:
    """As by the same command with `--trials 1 --seeds 1`: nothing that was trained goes."""
    run = write_run(tmp_path / "MRPC" / "minilm", depths=(3,))
    before = text_of(run)
    change(run / "run.json", lambda record: record["search"].update(trials=1, control_trials=1, seeds=1))
    assert text_of(run) == before


@pytest.mark.parametrize(
    ("methods", "trials"),
    [
        (("kd",), "6 trials for KD"),
        (("finetuned",), "6 trials for fine-tuned"),
        (("kd", "finetuned"), "6 trials for fine-tuned and 6 trials for KD"),
        (("pkd",), "12 trials for PKD"),
        (("pkd-skip", "pkd-last", "kd"), "12 trials each for PKD-skip and PKD-last and 6 trials for KD"),
    ],
)
def test_any_methods_have_a_report(tmp_path: Path, methods: tuple[Method, ...], trials: str) -> None:
    text = text_of(write_run(tmp_path / "MRPC" / "minilm", depths=(3,), methods=methods))
    assert f"- Search: {trials} at depth 3; " in text
    assert all(f"{METHOD_INFO[method].title}, 3 layers" in text for method in methods)


def test_a_student_that_learnt_nothing_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", trials=4)
    summary = read_json(run / "summary.json")
    student, teacher = summary["students"][0], summary["teacher"]
    assert not is_at_baseline(student, teacher)
    student["metrics"] = teacher["majority"]
    assert is_at_baseline(student, teacher)
    write_json(run / "summary.json", summary)
    assert "PKD, 2 layers: the student does not beat the constant baseline, which predicts the most" in text_of(run)


UNEQUAL = "Intervals do not account for tuning"


@pytest.mark.parametrize(
    ("tried", "controls", "words"),
    [
        (6, 1, " had fewer trials: best of 1 against best of 6."),
        (1, 4, "; PKD had fewer trials: best of 1 against best of 4."),
    ],
)
def test_a_comparison_of_unequal_tuning_says_so(tmp_path: Path, tried: int, controls: int, words: str) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", depths=(3,))

    def count(summary: dict[str, Any]) -> None:
        for student in summary["students"]:
            student["trials_ended"] = tried if student["method"] == "pkd" else controls

    change(run / "summary.json", count)
    text = text_of(run)
    tuned = text.split("*Tuned against tuned*")[1].split("*Ablation*")[0]
    compared = [line for line in tuned.splitlines() if line.startswith("- 3 layers: ")]
    assert [line.endswith(words) for line in compared] == ["PKD" in line for line in compared]
    assert len(compared) == 3
    assert UNEQUAL in text
    students = read_run(run).students
    gain = distillation_text(next(student for student in students if student["method"] == "pkd"), students)
    assert words.removeprefix("; ").removesuffix(".") in gain


def test_a_comparison_of_equal_tuning_says_nothing_of_it(tmp_path: Path) -> None:
    text = text_of(write_run(tmp_path / "MRPC" / "minilm", trials=6, control_trials=6))
    assert "## Significant differences" in text
    assert "had fewer trials" not in text
    assert UNEQUAL not in text


def test_every_difference_says_whether_it_is_tuned_or_an_ablation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", depths=(3,))
    write_report(run, with_latex=True, with_plots=False)
    text = (run / "report.md").read_text()
    kinds = ["*Tuned against tuned*", "*Ablation*", "*Against the teacher*"]
    assert [text.index(kind) for kind in kinds] == sorted(text.index(kind) for kind in kinds)
    ablated = text.split("*Ablation*")[1].split("*Against the teacher*")[0]
    assert [line.split(" (diff")[0].split(" by ")[0] for line in ablated.splitlines() if line.startswith("- ")] == [
        "- 3 layers: PKD and the same settings without the patience term (β = 0) do **not differ significantly**",
        "- 3 layers: PKD is **significantly better** than the same settings without distillation (α = β = 0)",
    ]
    assert "| PKD, 3 layers: the same settings without the patience term (β = 0) | 3 |" in text
    students = read_run(run).students
    gains = {student["method"]: distillation_text(student, students) for student in students}
    assert gains["pkd"].startswith(
        "Compared with a student that is fine-tuned without distillation: tuned against tuned "
    )
    assert gains["pkd"].endswith("; as an ablation, with the same hyperparameters, 3.0 points, 95 % CI 2.0 to 4.0.")
    assert gains["kd"] in text  # the student of the verdict
    assert gains["finetuned"] == ""
    tables = (run / "report.tex").read_text().split(r"\begin{table}")
    assert len(tables) == 3
    for kind in ("Tuned against tuned & 3 layers: PKD & KD", "Ablation & 3 layers: PKD & the same settings without"):
        assert kind in tables[2]
    lines = [line for line in tables[1].splitlines() if line == r"\midrule" or line.endswith(r"\\")]
    rules = [number for number, line in enumerate(lines) if line == r"\midrule"]
    assert [lines[number + 1].split(" & ")[0] for number in rules] == [
        *("teacher, 6 layers", "fine-tuned, 3 layers", "baseline: most frequent class")
    ]


def test_settings_without_effect_are_not_shown(tmp_path: Path) -> None:
    text = text_of(write_run(tmp_path / "MRPC" / "minilm", depths=(1,), trials=4))
    rows = {line.split(" |")[0]: line for line in text.splitlines() if line.startswith("| ") and "lr" in line}
    assert [("α" in row, "T " in row, "β" in row or "skip" in row or "last" in row) for row in rows.values()] == [
        (False, False, False),  # fine-tuned
        (True, True, False),  # KD
        (True, True, False),  # PKD of one layer has no intermediate layer to imitate with
    ]
    assert "A student of one layer has no intermediate layer" in text


@pytest.mark.parametrize(
    ("resources", "cost"),
    [
        ({"device": "cpu", "count": 2, "per_gpu": 1, "threads": 1}, "0.80 CPU-core-hours"),
        ({"device": "cpu", "count": 1, "per_gpu": 1, "threads": 2}, "1.60 CPU-core-hours"),
        ({"device": "cuda", "count": 8, "per_gpu": 4, "threads": 1}, "0.20 GPU-hours"),
    ],
)
def test_what_the_trainings_took_counts_cores_and_shares_of_gpus(
    tmp_path: Path, resources: dict[str, Any], cost: str
) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm")
    change(run / "run.json", lambda record: record.update(resources=resources))
    assert f"All training runs took {cost}, without teacher and export." in text_of(run)


def test_a_search_cut_short_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", trials=4)
    assert "The search is incomplete" not in text_of(run)
    change(run / "summary.json", lambda summary: summary.update(planned=24))
    assert "The search is incomplete: 16 of 24 trials ended." in text_of(run)


@pytest.mark.parametrize(
    ("status", "says"), [("interrupted", "was interrupted"), ("time limit", "reached its time limit")]
)
def test_missing_confirmations_and_ablations_are_said(tmp_path: Path, status: str, says: str) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", trials=4)
    assert "The search was" not in text_of(run)
    change(run / "summary.json", lambda summary: summary.update(status=status, remaining=11))
    assert f"The search {says} with 11 training runs to go, confirmations and ablations included" in text_of(run)
    change(run / "summary.json", lambda summary: summary["students"][0]["ablations"][0].update(seeds=[43], scores=[70]))
    assert "PKD, 2 layers: the same settings without the patience term (β = 0) has 1 training run of 3." in text_of(run)
    trials = pd.read_csv(run / "trials.csv")
    trials = pd.concat([trials, trials.tail(1).assign(stage="ablation", state="failed")])
    trials.to_csv(run / "trials.csv", index=False)
    assert "1 training run of ablations failed; `trials.csv` says why." in text_of(run)


def test_texts_without_labels_are_named_where_fine_tuning_is_compared(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", tolerance=9.0)
    assert "without labels" not in text_of(run)
    change(run / "run.json", lambda record: record.update(unlabeled={"file": "texts.tsv", "examples": 9}))
    text = text_of(run)
    assert "fine-tuned without distillation, and so without the texts that have no labels: tuned" in text
    assert "its own trials. Fine-tuning uses no texts without labels." in text
    assert "on the same seeds. Without distillation it uses no texts without labels." in text


def test_a_run_that_went_on_elsewhere_does_not_add_up_different_devices(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm")
    gpus = {"device": "cuda", "count": 8, "per_gpu": 4, "threads": 1}
    more = {"device": "cpu", "count": 1, "per_gpu": 1, "threads": 1}
    change(run / "run.json", lambda record: record.update(continued_on=[more]))
    assert "All training runs took 0.80 CPU-core-hours, without" in text_of(run)
    change(run / "run.json", lambda record: record.update(continued_on=[gpus, more]))
    text = text_of(run)
    assert "Continued with concurrent trials: 8 (" in text
    assert "All training runs took 0.80 hours in total, on different devices, without" in text


def test_a_finite_space_has_no_more_trials_than_settings(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", depths=(3,), methods=("kd",))
    change(run / "run.json", lambda record: record["search"].update(control_trials=100))
    assert "- Search: 6 trials for KD at depth 3; " in text_of(run)
    change(run / "summary.json", lambda summary: summary.update(status="interrupted", remaining=94))
    assert "- Search: 100 trials for KD at depth 3; " in text_of(run)


def test_importances_that_are_missing_are_said_to_be_in_both_reports(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", trials=16, depths=(3,))
    says = "Hyperparameter importances"
    assert f"{says} are not available" not in write_report(run, with_plots=False).read_text()
    assert f"<h3>{says}</h3>" in (run / "report.html").read_text()
    trials = pd.read_csv(run / "trials.csv")
    trials[trials["trial"] < 7].to_csv(run / "trials.csv", index=False)
    assert f"- {says} are not available for PKD with 3 layers (" in write_report(run, with_plots=False).read_text()
    html = (run / "report.html").read_text()
    assert f"<li>{says} are not available for PKD with 3 layers (" in html
    assert "A larger <code>--trials</code> adds trials" in html
    assert f"<h3>{says}</h3>" not in html


def test_parts_of_a_space_that_depend_on_others(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", trials=4)
    spec = {"values": [1, 10], "when": {"strategy": "skip"}, "otherwise": 5}
    change(run / "run.json", lambda record: record["space"].update(beta=spec))
    assert "beta 1 or 10 when strategy is skip, otherwise 5;" in text_of(run)


UNFINISHED = "**This search has not ended.**"


def _begun(run: Path) -> None:
    for name in ("summary.json", "trials.csv", "evaluations.csv"):
        (run / name).unlink()


def _killed(run: Path) -> None:
    (run / "summary.json").unlink()


def _fruitless(run: Path) -> None:
    change(run / "summary.json", lambda summary: summary.update(students=[]))
    trials = pd.read_csv(run / "trials.csv").assign(state="failed", error="out | of `memory`\nagain")
    trials.to_csv(run / "trials.csv", index=False)


def _trialless(run: Path) -> None:
    change(run / "summary.json", lambda summary: summary.update(students=[]))
    write_rows(run / "trials.csv", [])
    write_rows(run / "evaluations.csv", [])


HALVES: dict[str, tuple[Callable[[Path], None], list[str], list[str]]] = {
    "begun": (_begun, [UNFINISHED, "- Command: `"], ["There is no", "## Trials"]),
    "killed": (_killed, [UNFINISHED, "| PKD, 2 layers | 7 |", "- Command: `"], ["There is no"]),
    "fruitless": (
        _fruitless,
        ["There is no fine-tuned, KD or PKD student with 2 layers", "failed: ``out | of `memory` again``"],
        [UNFINISHED, "## Notes"],
    ),
    "trialless": (_trialless, ["The search is incomplete: 0 of 24 trials ended.", "| teacher, 6 layers |"], []),
}


@pytest.mark.parametrize(("damage", "says", "says_not"), HALVES.values(), ids=HALVES)
def test_half_a_run_has_a_report_that_says_so(
    tmp_path: Path, damage: Callable[[Path], None], says: list[str], says_not: list[str]
) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm")
    damage(run)
    text = write_report(run).read_text()
    assert [words for words in says if words not in text] == []
    assert [words for words in says_not if words in text] == []
    assert "nan" not in text.lower()
    assert (run / "report.html").exists()


def test_a_name_cannot_add_markup(tmp_path: Path) -> None:
    name = "a|b <script>alert(1)</script> *x* `y` [z](http://z) &lt; _u_"
    run = write_run(tmp_path / "MRPC" / "minilm", teacher=name, trials=4, depths=(2,))
    title = write_report(run, with_plots=False).read_text().splitlines()[0]
    escaped = r"a|b &lt;script>alert(1)&lt;/script> \*x\* \`y\` [z\](http://z) &amp;lt; \_u\_"
    assert title == f"# MRPC: students of {escaped}"
    page = (run / "report.html").read_text()
    assert f"<h1>MRPC: students of {html.escape(name)}</h1>" in page
    assert "<script>alert" not in page


@pytest.mark.parametrize("name", ["run.json", "summary.json", "trials.csv", "evaluations.csv"])
def test_a_damaged_record_is_named_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", trials=4)
    (run / name).write_text('a,b\n1,"2' if name.endswith("csv") else json.dumps({"a": 1})[:-1])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=name):
        write_report(run)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_report_without_plots_says_so_and_keeps_none_of_an_earlier_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", trials=4, depths=(2,))
    assert "plots for papers: `plots/`." in write_report(run).read_text()
    assert list((run / "plots").iterdir())
    assert "no plots for papers, which `pkd_tune.report` draws." in write_report(run, with_plots=False).read_text()
    assert not list((run / "plots").iterdir())
