"""The table of GLUE tasks: files, columns, labels, metrics and sizes.

The rest of the package is driven by this table and refers to no task by name; a task of the same kind is one more
entry. Splits are named train, dev, dev_mm, test and test_mm.
"""

import difflib

from pkd_tune.config import HubDataset, Layout, Task, TaskSplit, UserError


def _train_dev_test(name: str, rows: tuple[int, int, int], labelled: Layout, test: Layout) -> tuple[TaskSplit, ...]:
    """Returns train, dev and test splits with the usual file names."""
    return (
        TaskSplit(part="train", file="train.tsv", hub="train", layout=labelled, rows=rows[0]),
        TaskSplit(part="dev", file="dev.tsv", hub="validation", layout=labelled, rows=rows[1]),
        TaskSplit(part="test", file="test.tsv", hub="test", layout=test, labelled=False, rows=rows[2], submission=name),
    )


REPOSITORY = "nyu-mll/glue"
"""The dataset on the Hugging Face hub."""

_ENTAILMENT = ("entailment", "not_entailment")
_PAIR_HEADER = ("index", "sentence1", "sentence2", "label")
_BINARY = ("0", "1")
_NLI = ("entailment", "neutral", "contradiction")
_MNLI_HEADER = (
    *("index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse"),
    *("sentence1_parse", "sentence2_parse", "sentence1", "sentence2"),
)
_MNLI_TRAIN = Layout(header=(*_MNLI_HEADER, "label1", "gold_label"), sentence1=8, sentence2=9, label=11)
_MNLI_DEV = Layout(
    header=(*_MNLI_HEADER, *(f"label{i}" for i in range(1, 6)), "gold_label"), sentence1=8, sentence2=9, label=15
)
_MNLI_TEST = Layout(header=_MNLI_HEADER, sentence1=8, sentence2=9)
_STSB_HEADER = ("index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2")

_TABLE = (
    Task(
        name="CoLA",
        benchmark="GLUE",
        hub=HubDataset(repository=REPOSITORY, config="cola"),
        text=("sentence",),
        labels=("unacceptable", "acceptable"),
        raw_labels=_BINARY,
        splits=_train_dev_test(
            "CoLA",
            rows=(8_551, 1_043, 1_063),
            labelled=Layout(header=None, sentence1=3, label=1),  # train and dev: source, label, star, sentence
            test=Layout(header=("index", "sentence"), sentence1=1),
        ),
        metrics=("matthews",),
        score="mean",
        filler=1,
    ),
    Task(
        name="SST-2",
        benchmark="GLUE",
        hub=HubDataset(repository=REPOSITORY, config="sst2"),
        text=("sentence",),
        labels=("negative", "positive"),
        raw_labels=_BINARY,
        splits=_train_dev_test(
            "SST-2",
            rows=(67_349, 872, 1_821),
            labelled=Layout(header=("sentence", "label"), sentence1=0, label=1),
            test=Layout(header=("index", "sentence"), sentence1=1),
        ),
        metrics=("accuracy",),
        score="mean",
        filler=1,
    ),
    Task(
        name="MRPC",
        benchmark="GLUE",
        hub=HubDataset(repository=REPOSITORY, config="mrpc"),
        text=("sentence1", "sentence2"),
        labels=("not_equivalent", "equivalent"),
        raw_labels=_BINARY,
        splits=_train_dev_test(
            "MRPC",
            rows=(3_668, 408, 1_725),
            labelled=Layout(
                header=("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"), sentence1=3, sentence2=4, label=0
            ),
            test=Layout(header=("index", "#1 ID", "#2 ID", "#1 String", "#2 String"), sentence1=3, sentence2=4),
        ),
        metrics=("f1", "accuracy"),
        score="mean",
        filler=1,
    ),
    Task(
        name="STS-B",
        benchmark="GLUE",
        hub=HubDataset(repository=REPOSITORY, config="stsb"),
        text=("sentence1", "sentence2"),
        kind="regression",
        value_range=(0.0, 5.0),
        splits=_train_dev_test(
            "STS-B",
            rows=(5_749, 1_500, 1_379),
            labelled=Layout(header=(*_STSB_HEADER, "score"), sentence1=7, sentence2=8, label=9),
            test=Layout(header=_STSB_HEADER, sentence1=7, sentence2=8),
        ),
        metrics=("pearson", "spearman"),
        score="mean",
        filler=2.5,
    ),
    Task(
        name="QQP",
        benchmark="GLUE",
        hub=HubDataset(repository=REPOSITORY, config="qqp"),
        text=("question1", "question2"),
        labels=("not_duplicate", "duplicate"),
        raw_labels=_BINARY,
        splits=_train_dev_test(
            "QQP",
            rows=(363_846, 40_430, 390_965),
            labelled=Layout(
                header=("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
                sentence1=3,
                sentence2=4,
                label=5,
                skips_short=True,
            ),
            test=Layout(header=("id", "question1", "question2"), sentence1=1, sentence2=2),
        ),
        metrics=("f1", "accuracy"),
        score="mean",
        filler=0,
    ),
    Task(
        name="MNLI",
        benchmark="GLUE",
        hub=HubDataset(repository=REPOSITORY, config="mnli"),
        text=("premise", "hypothesis"),
        labels=_NLI,
        raw_labels=_NLI,
        splits=(
            TaskSplit(part="train", file="train.tsv", hub="train", layout=_MNLI_TRAIN, rows=392_702),
            TaskSplit(part="dev", file="dev_matched.tsv", hub="validation_matched", layout=_MNLI_DEV, rows=9_815),
            TaskSplit(
                part="dev",
                suffix="_mm",
                file="dev_mismatched.tsv",
                hub="validation_mismatched",
                layout=_MNLI_DEV,
                rows=9_832,
            ),
            TaskSplit(
                part="test",
                file="test_matched.tsv",
                hub="test_matched",
                layout=_MNLI_TEST,
                labelled=False,
                rows=9_796,
                submission="MNLI-m",
            ),
            TaskSplit(
                part="test",
                suffix="_mm",
                file="test_mismatched.tsv",
                hub="test_mismatched",
                layout=_MNLI_TEST,
                labelled=False,
                rows=9_847,
                submission="MNLI-mm",
            ),
        ),
        metrics=("accuracy",),
        score="mean",
        filler=2,
    ),
    Task(
        name="QNLI",
        benchmark="GLUE",
        hub=HubDataset(repository=REPOSITORY, config="qnli"),
        text=("question", "sentence"),
        labels=_ENTAILMENT,
        raw_labels=_ENTAILMENT,
        splits=_train_dev_test(
            "QNLI",
            rows=(104_743, 5_463, 5_463),
            labelled=Layout(header=("index", "question", "sentence", "label"), sentence1=1, sentence2=2, label=3),
            test=Layout(header=("index", "question", "sentence"), sentence1=1, sentence2=2),
        ),
        metrics=("accuracy",),
        score="mean",
        filler=1,
    ),
    Task(
        name="RTE",
        benchmark="GLUE",
        hub=HubDataset(repository=REPOSITORY, config="rte"),
        text=("sentence1", "sentence2"),
        labels=_ENTAILMENT,
        raw_labels=_ENTAILMENT,
        splits=_train_dev_test(
            "RTE",
            rows=(2_490, 277, 3_000),
            labelled=Layout(header=_PAIR_HEADER, sentence1=1, sentence2=2, label=3),
            test=Layout(header=_PAIR_HEADER[:3], sentence1=1, sentence2=2),
        ),
        metrics=("accuracy",),
        score="mean",
        filler=0,
    ),
    Task(
        name="WNLI",
        benchmark="GLUE",
        hub=HubDataset(repository=REPOSITORY, config="wnli"),
        text=("sentence1", "sentence2"),
        labels=("not_entailment", "entailment"),
        raw_labels=_BINARY,
        splits=_train_dev_test(
            "WNLI",
            rows=(635, 71, 146),
            labelled=Layout(header=_PAIR_HEADER, sentence1=1, sentence2=2, label=3),
            test=Layout(header=_PAIR_HEADER[:3], sentence1=1, sentence2=2),
        ),
        metrics=("accuracy",),
        score="mean",
        filler=0,
    ),
    Task(
        name="AX",
        benchmark="GLUE",
        hub=HubDataset(repository=REPOSITORY, config="ax"),
        text=("premise", "hypothesis"),
        labels=_NLI,
        raw_labels=_NLI,
        splits=(
            TaskSplit(
                part="test",
                file="test.tsv",
                hub="test",
                layout=Layout(header=_PAIR_HEADER[:3], sentence1=1, sentence2=2),
                labelled=False,
                rows=1_104,
                submission="AX",
            ),
        ),
        metrics=("matthews",),
        score="mean",
        filler=2,
        model_task="MNLI",
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _TABLE}
"""All tasks by their GLUE names."""


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character not in "-_ ")


def is_glue(name: str) -> bool:
    """Returns whether this is the name of a GLUE task, in any usual spelling."""
    return _plain(name) in {_plain(task.name) for task in TASKS.values()}


def glue_task(name: str) -> Task:
    """Returns the GLUE task of this name, ignoring case, hyphens, underscores and spaces: MRPC, sst2, SST-2, cola.

    Raises:
        UserError: There is no such task; the message lists the tasks and suggests the closest name.
    """
    by_plain_name = {_plain(task.name): task for task in TASKS.values()}
    if _plain(name) in by_plain_name:
        return by_plain_name[_plain(name)]
    close = difflib.get_close_matches(_plain(name), by_plain_name, n=1, cutoff=0.5)
    hint = f"did you mean {by_plain_name[close[0]].name}?" if close else "nor a folder or a task file (tickets.toml)"
    raise UserError(f"--task {name}: no such task among {', '.join(TASKS)}; {hint}")
