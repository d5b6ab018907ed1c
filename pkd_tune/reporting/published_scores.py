"""Published scores of students of BERT-base, × 100, for comparison with those of a search.

Three sources. The authors' dev scores are those of the result summaries in their released code
(intersun/PKD-for-BERT-Model-Compression, commit 9e9e860): accuracy, for CoLA the Matthews correlation, for MNLI on
dev_matched. BERT-of-Theseus (Xu et al., EMNLP 2020, arXiv:2002.02925) trained the same students again; its dev figures
are medians of 5 runs of the task's GLUE score, the mean of its metrics. The paper's own tables (Sun et al., EMNLP 2019,
tables 1 and 2; CoLA and STS-B as BERT-of-Theseus added them) are test scores: F1/accuracy, matched/mismatched,
Pearson/Spearman.

The authors' 3-layer PKD students imitate layers 10 and 11, as PKD-last does, and their 6-layer ones those of PKD-skip.
"""

from dataclasses import dataclass

from pkd_tune.reporting.document import Table
from pkd_tune.reporting.methods import student_title
from pkd_tune.reporting.run import Run

PUBLISHED_NOTE = (
    "Authors: result summaries of their released code (intersun/PKD-for-BERT-Model-Compression), accuracy, for CoLA "
    "the Matthews correlation, for MNLI on dev_matched; the mean is over repeats of the best hyperparameters. "
    "Theseus: the same students trained again by Xu et al. (arXiv:2002.02925), mean of the task's metrics. Paper: Sun "
    "et al. (arXiv:1908.09355), F1/accuracy or matched/mismatched; dev and test scores are not comparable."
)

_AUTHORS = """
          SST-2       MRPC        QQP         MNLI        QNLI        RTE         CoLA
teacher12 92.58/93.00 86.93/87.50 90.92/91.04 83.50/83.74 91.09/91.14 69.43/72.92 -
finetuned6 89.68/90.02 82.23/82.60 90.09/90.12 80.23/80.31 87.42/87.68 66.06/66.79 -
kd6       90.77/91.40 82.84/84.80 90.52/90.59 80.78/80.82 88.69/88.91 67.51/67.51 42.19/44.60
pkd-skip6 91.06/91.06 83.46/84.56 90.83/90.83 82.23/82.31 89.66/89.66 68.23/68.23 -
pkd-last6 90.54/90.94 82.84/83.09 90.78/90.79 81.45/81.62 88.95/89.02 66.79/68.23 -
finetuned3 87.50/88.07 75.25/75.74 88.91/88.92 74.94/75.09 84.19/84.48 58.30/59.93 -
kd3       87.46/87.96 75.33/76.96 89.41/89.46 75.64/75.96 84.56/84.62 59.45/61.01 -
pkd-last3 88.07/88.07 75.33/76.23 89.48/89.49 77.61/77.65 85.63/85.63 62.09/62.45 -
"""
"""Dev: mean over repeats of the best hyperparameters / best single run."""

_THESEUS = """
           CoLA MNLI MRPC QNLI QQP  RTE  SST-2 STS-B
teacher12  54.3 83.5 89.5 91.2 89.8 71.1 91.5  88.9
finetuned6 43.4 80.1 86.0 86.9 87.8 62.1 89.6  81.9
kd6        45.1 80.1 86.2 88.0 88.1 64.9 90.5  84.9
pkd-skip6  45.5 81.3 85.7 88.4 88.4 66.5 91.3  86.2
finetuned4 33.9 78.4 86.0 82.3 87.1 58.2 87.2  78.4
finetuned3 27.5 78.1 81.9 80.4 86.5 57.7 85.9  76.8
"""
"""Dev: median of 5."""

_PAPER = """
           SST-2 MRPC      QQP       MNLI      QNLI RTE  CoLA STS-B
teacher12  94.3  89.2/85.2 70.9/89.0 83.7/82.8 90.4 69.1 -    -
finetuned6 90.7  85.9/80.2 69.2/88.2 80.4/79.7 86.7 63.6 41.5 82.1/80.0
kd6        91.5  86.2/80.6 70.1/88.8 80.2/79.8 88.3 64.7 42.9 82.1/80.3
pkd-skip6  92.0  85.0/79.9 70.7/88.9 81.5/81.0 89.0 65.5 43.5 83.4/81.6
pkd-last6  91.9  85.1/79.5 70.5/88.9 80.9/81.0 88.2 65.0 -    -
finetuned3 86.4  80.5/72.6 65.8/86.9 74.8/74.3 84.3 55.2 -    -
kd3        86.9  79.5/71.1 67.3/87.6 75.4/74.8 84.0 56.2 -    -
pkd-last3  87.5  80.7/72.5 68.1/87.8 76.7/76.3 84.7 58.2 -    -
"""
"""Test."""


_AUTHORS_METRIC = {"CoLA": "Matthews"}
"""Metric of the authors' dev scores, where it is not accuracy."""


@dataclass(frozen=True, slots=True)
class Published:
    """Published scores of one model on one task; None where there is none."""

    authors_mean: float | None
    authors_best: float | None
    theseus: float | None
    test: str | None
    """As printed in the paper: one metric, or two."""


def published(task: str, method: str, layers: int) -> Published | None:
    """Returns the scores of a task for a method (or `teacher`) and depth; None when there are none.

    The method `pkd`, whose strategy is searched, is compared with the strategy the authors used at that depth.
    """
    if method == "pkd":
        method = "pkd-last" if layers == 3 else "pkd-skip"
    system = f"{method}{layers}"
    dev, theseus, test = (_table(text).get((system, task)) for text in (_AUTHORS, _THESEUS, _PAPER))
    if dev is theseus is test is None:
        return None
    mean, best = map(float, dev.split("/")) if dev else (None, None)
    return Published(mean, best, float(theseus) if theseus else None, test)


def compares(run: Run) -> bool:
    """Returns whether there are scores to compare a run with: its teacher is BERT-base and its data that of GLUE."""
    teacher = run.teacher
    base = teacher and teacher["name"].startswith("bert-base-uncased") and teacher["layers"] == 12
    of_glue = run.search["data"]["task"]["benchmark"] == "GLUE"
    return bool(base and of_glue and not run.demo and published_table(run).rows)


def published_dev(task: str, method: str, layers: int) -> str:
    """Returns the published dev score to compare with a confirmed score, with its metric; a dash without one."""
    figures = published(task, method, layers)
    if figures and figures.authors_mean is not None:
        return f"{figures.authors_mean:.1f} ({_AUTHORS_METRIC.get(task, 'accuracy')})"
    if figures and figures.theseus is not None:
        return f"{figures.theseus:.1f} (Theseus)"
    return "–"


def published_table(run: Run) -> Table:
    """Returns all published scores of the teacher and students of a run."""
    models = [("teacher", 12, "teacher, 12 layers")]
    models += [(student["method"], student["layers"], student_title(student)) for student in run.students]
    rows = []
    for method, layers, title in models:
        if figures := published(run.task, method, layers):
            values = (figures.authors_mean, figures.authors_best, figures.theseus)
            numbers = ["–" if value is None else f"{value:.1f}" for value in values]
            rows.append([title, *numbers, figures.test or "–"])
    return Table(["published", "authors, dev: mean", "best run", "Theseus, dev: median of 5", "paper, test"], rows)


def _table(text: str) -> dict[tuple[str, str], str]:
    header, *lines = text.strip().splitlines()
    tasks = header.split()
    cells: dict[tuple[str, str], str] = {}
    for line in lines:
        system, *values = line.split()
        cells |= {(system, task): value for task, value in zip(tasks, values, strict=True) if value != "-"}
    return cells
