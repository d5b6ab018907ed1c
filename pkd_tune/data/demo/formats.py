"""How each GLUE task writes its TSV files: columns, header or none, byte-order mark or none. Real files look the same.

A column is written here as `name=cell`. Cells know: {n} the row's number in its file; {id} an example's number in all
files of the task; {first} and {second} its sentences; {label}; {star} CoLA's mark of the unacceptable. Columns that no
reader needs (parses, sources) hold a hyphen.
"""

from pkd_tune.data.demo.corpora import AX_SPLIT, Example, make_examples

_PAIR = ("index={n}", "sentence1={first}", "sentence2={second}")
_SINGLE = ("index={n}", "sentence={first}")
_MRPC_TEXTS = ("#1 ID={odd_id}", "#2 ID={even_id}", "#1 String={first}", "#2 String={second}")
_STSB = (
    "index={n}",
    "genre=demo",
    "filename=-",
    "year=-",
    "old_index={n}",
    "source1=-",
    "source2=-",
    "sentence1={first}",
    "sentence2={second}",
)
_MNLI = (
    "index={n}",
    "promptID={id}",
    "pairID={id}",
    "genre=demo",
    "sentence1_binary_parse=-",
    "sentence2_binary_parse=-",
    "sentence1_parse=-",
    "sentence2_parse=-",
    "sentence1={first}",
    "sentence2={second}",
)
_MNLI_DEV = (*_MNLI, *(f"label{i}={{label}}" for i in range(1, 6)), "gold_label={label}")
_LABEL = "label={label}"

COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "CoLA": {"labelled": ("source=demo", _LABEL, "star={star}", "sentence={first}"), "test": _SINGLE},
    "SST-2": {"labelled": ("sentence={first}", _LABEL), "test": _SINGLE},
    "MRPC": {"labelled": ("Quality={label}", *_MRPC_TEXTS), "test": ("index={n}", *_MRPC_TEXTS)},
    "STS-B": {"labelled": (*_STSB, "score={label}"), "test": _STSB},
    "QQP": {
        "labelled": (
            "id={id}",
            "qid1={odd_id}",
            "qid2={even_id}",
            "question1={first}",
            "question2={second}",
            "is_duplicate={label}",
        ),
        "test": ("id={n}", "question1={first}", "question2={second}"),
    },
    "MNLI": {
        "train": (*_MNLI, "label1={label}", "gold_label={label}"),
        "labelled": _MNLI_DEV,
        "test": _MNLI,
    },
    "QNLI": {
        "labelled": ("index={n}", "question={first}", "sentence={second}", _LABEL),
        "test": ("index={n}", "question={first}", "sentence={second}"),
    },
    "RTE": {"labelled": (*_PAIR, _LABEL), "test": _PAIR},
    "WNLI": {"labelled": (*_PAIR, _LABEL), "test": _PAIR},
    "AX": {"test": _PAIR},
}
"""By task, then by what a file is: 'train' where it differs from dev, 'labelled', 'test'."""


def _tsv(task: str, split: str, examples: list[Example], first_id: int) -> bytes:
    columns = COLUMNS[task]
    is_test = split.startswith("test")
    chosen = columns["test"] if is_test else columns.get(split, columns["labelled"])
    names, cells = zip(*(column.split("=", maxsplit=1) for column in chosen), strict=True)
    # CoLA's train and dev files begin with an example.
    lines = [] if task == "CoLA" and not is_test else ["\t".join(names)]
    row = "\t".join(cells)
    for n, example in enumerate(examples):
        first, second = (*example.texts, "")[:2]
        number = first_id + n
        lines.append(
            row.format(
                n=n,
                id=number,
                odd_id=2 * number + 1,
                even_id=2 * number + 2,
                first=first,
                second=second,
                label=example.label,
                star="" if example.label == "1" else "*",
            )
        )
    # Like the real ones, MRPC's train and dev files start with a byte-order mark.
    return "".join(f"{line}\n" for line in lines).encode("utf-8-sig" if task == "MRPC" and not is_test else "utf-8")


def write_corpus(task: str, *, seed: int = 0) -> dict[str, bytes]:
    """Returns a task's files by their name in data_raw/<TASK>/. AX has the only file test.tsv."""
    if task == "AX":
        return {"test.tsv": _tsv("AX", "test", make_examples("MNLI", seed=seed)[AX_SPLIT], 0)}
    files = {}
    first_id = 0
    for split, examples in make_examples(task, seed=seed).items():
        if split != AX_SPLIT:
            files[f"{split}.tsv"] = _tsv(task, split, examples, first_id)
            first_id += len(examples)
    return files
