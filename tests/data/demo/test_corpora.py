"""The demo's corpora: the exact format of each task, splits that share nothing, labels that are right and balanced."""

import hashlib
import random
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from pkd_tune.data.demo import DEMO_TASKS
from pkd_tune.data.demo import world as demo_world
from pkd_tune.data.demo.corpora import AX_SPLIT, CORPORA, make_examples

MNLI = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
    "sentence1 sentence2"
).split()
STSB = "index genre filename year old_index source1 source2 sentence1 sentence2".split()
MRPC = ["#1 ID", "#2 ID", "#1 String", "#2 String"]
PAIR = ["index", "sentence1", "sentence2"]
BINARY, ENTAILMENT = {"0", "1"}, {"entailment", "not_entailment"}
THREE = {"entailment", "neutral", "contradiction"}
SCORES = {f"{5 * shared / 6:.3f}" for shared in range(7)}
# Of every file: its header, the columns of its texts, and where labels are and which they must be. As GLUE has them.
FORMATS: dict[str, dict[str, tuple[list[str] | None, tuple[int, ...], tuple[int, set[str]] | None]]] = {
    "CoLA": {
        "train dev": (None, (3,), (1, BINARY)),
        "test": (["index", "sentence"], (1,), None),
    },
    "SST-2": {
        "train dev": (["sentence", "label"], (0,), (1, BINARY)),
        "test": (["index", "sentence"], (1,), None),
    },
    "MRPC": {
        "train dev": (["Quality", *MRPC], (3, 4), (0, BINARY)),
        "test": (["index", *MRPC], (3, 4), None),
    },
    "STS-B": {
        "train dev": ([*STSB, "score"], (7, 8), (9, SCORES)),
        "test": (STSB, (7, 8), None),
    },
    "QQP": {
        "train dev": (["id", "qid1", "qid2", "question1", "question2", "is_duplicate"], (3, 4), (5, BINARY)),
        "test": (["id", "question1", "question2"], (1, 2), None),
    },
    "MNLI": {
        "train": ([*MNLI, "label1", "gold_label"], (8, 9), (11, THREE)),
        "dev_matched dev_mismatched": (
            [*MNLI, *(f"label{i}" for i in range(1, 6)), "gold_label"],
            (8, 9),
            (15, THREE),
        ),
        "test_matched test_mismatched": (MNLI, (8, 9), None),
    },
    "QNLI": {
        "train dev": (["index", "question", "sentence", "label"], (1, 2), (3, ENTAILMENT)),
        "test": (["index", "question", "sentence"], (1, 2), None),
    },
    "RTE": {"train dev": ([*PAIR, "label"], (1, 2), (3, ENTAILMENT)), "test": (PAIR, (1, 2), None)},
    "WNLI": {"train dev": ([*PAIR, "label"], (1, 2), (3, BINARY)), "test": (PAIR, (1, 2), None)},
    "AX": {"test": (PAIR, (1, 2), None)},
}
FILES = {
    (task, name): of_file
    for task, kinds in FORMATS.items()
    for names, of_file in kinds.items()
    for name in names.split()
}


def rows(data_dir: Path, task: str, name: str) -> list[list[str]]:
    """Returns a file's examples as cells."""
    text = (data_dir / "data_raw" / task / f"{name}.tsv").read_bytes().decode("utf-8-sig")
    lines = text.removesuffix("\n").split("\n")
    return [line.split("\t") for line in lines[FILES[task, name][0] is not None :]]


def texts(data_dir: Path, task: str) -> list[tuple[str, ...]]:
    """Returns the sentences of all examples in all files of a task."""
    return [
        tuple(row[column] for column in columns)
        for (of_task, name), (_, columns, _) in FILES.items()
        if of_task == task
        for row in rows(data_dir, task, name)
    ]


def test_every_task_has_a_format_here() -> None:
    assert set(FORMATS) == set(DEMO_TASKS)
    assert len(FORMATS) == 10


@pytest.mark.parametrize(("task", "name"), FILES)
def test_a_file_has_exactly_its_tasks_format(demo_data: Path, task: str, name: str) -> None:
    header, text_columns, label = FILES[task, name]
    content = (demo_data / "data_raw" / task / f"{name}.tsv").read_bytes()
    # Only MRPC's real train and dev files start with a byte-order mark.
    assert content.startswith(b"\xef\xbb\xbf") == (task == "MRPC" and name != "test")
    assert content.endswith(b"\n")
    assert b"\r" not in content
    if header is not None:
        assert content.decode("utf-8-sig").split("\n")[0].split("\t") == header
    table = rows(demo_data, task, name)
    assert len(table) == (CORPORA["MNLI"].sizes[AX_SPLIT] if task == "AX" else CORPORA[task].sizes[name])
    assert {len(row) for row in table} == {4 if header is None else len(header)}
    assert all(row[column][0].isupper() and row[column][-1] in ".?" for row in table for column in text_columns)
    if label is not None:
        assert {row[label[0]] for row in table} == label[1]
    elif header is not None and task != "MRPC":
        assert [row[0] for row in table] == [str(index) for index in range(len(table))]


@pytest.mark.parametrize("task", DEMO_TASKS)
def test_no_folder_has_other_files(demo_data: Path, task: str) -> None:
    names = {path.name for path in (demo_data / "data_raw" / task).iterdir()}
    assert names == {f"{name}.tsv" for of_task, name in FILES if of_task == task}


def test_the_corpus_of_mrpc_is_the_measured_one(demo_data: Path) -> None:
    # The scores in the documentation and in search_spaces/demo.toml were measured on these bytes.
    digests = {
        "train": "a4c79f3e89ece3c4",
        "dev": "093da9d9b1ad8147",
        "test": "fbc98bbe89675ce5",
    }
    for name, digest in digests.items():
        content = (demo_data / "data_raw" / "MRPC" / f"{name}.tsv").read_bytes()
        assert hashlib.sha256(content).hexdigest()[:16] == digest


def test_cola_marks_what_is_unacceptable(demo_data: Path) -> None:
    assert {(row[1], row[2]) for row in rows(demo_data, "CoLA", "train")} == {("1", ""), ("0", "*")}


def test_no_id_is_used_twice(demo_data: Path) -> None:
    for task, names, columns in (("MRPC", "train dev test", (1, 2)), ("QQP", "train dev", (1, 2))):
        ids = [row[column] for name in names.split() for row in rows(demo_data, task, name) for column in columns]
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize(("task", "name"), [key for key, (_, _, label) in FILES.items() if label])
def test_labels_are_balanced(demo_data: Path, task: str, name: str) -> None:
    label = FILES[task, name][2]
    assert label is not None
    counts = Counter(row[label[0]] for row in rows(demo_data, task, name))
    smallest, largest = (pick(counts.values()) / counts.total() for pick in (min, max))
    even = 1 / len(label[1])
    assert 0.5 * even <= smallest
    assert largest <= 1.5 * even
    if task == "MRPC":
        assert 0.60 <= largest <= 0.68


@pytest.mark.parametrize("task", DEMO_TASKS)
def test_no_example_occurs_twice_in_either_order(demo_data: Path, task: str) -> None:
    # AX is predicted with a model trained on MNLI.
    examples = [*texts(demo_data, task), *(texts(demo_data, "MNLI") if task == "AX" else [])]
    keys = [frozenset(example) for example in examples]
    assert all(len(key) == len(example) for key, example in zip(keys, examples, strict=True))
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("task", DEMO_TASKS)
def test_every_word_is_one_known_token(demo_data: Path, task: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_data / "models" / "pretrained" / "demo")
    examples = texts(demo_data, task)
    sentences = [sentence for example in examples for sentence in example]
    for sentence, ids in zip(sentences, tokenizer(sentences, add_special_tokens=False)["input_ids"], strict=True):
        assert tokenizer.convert_ids_to_tokens(ids) == sentence.lower().split()
    encoded = tokenizer(*(list(column) for column in zip(*examples, strict=True)))
    assert max(map(len, encoded["input_ids"])) <= tokenizer.model_max_length == 64


def test_another_seed_is_another_corpus() -> None:
    assert make_examples("WNLI", seed=1) == make_examples("WNLI", seed=1)
    assert make_examples("WNLI", seed=1) != make_examples("WNLI", seed=0)


def test_a_changed_meaning_is_never_the_same_again() -> None:
    # Changes follow one another, and a later one must not undo an earlier one: the label would be wrong.
    draw = random.Random(0)
    for _ in range(5000):
        meaning = demo_world.draw_meaning(draw)
        changed = demo_world.change(meaning, draw)
        assert changed != meaning
        assert changed.agent != changed.patient


def test_scores_of_sts_b_count_what_is_shared() -> None:
    # Words of one concept as one word, and the manner's two as one: what is left can be counted.
    concepts = {word: concept[0] for kind in demo_world.WORDS.values() for concept in kind for word in concept}
    opposites = {word: pair[1 - side][0] for pair in demo_world.MANNERS for side in (0, 1) for word in pair[side]}
    itself = {word: pair[side][0] for pair in demo_world.MANNERS for side in (0, 1) for word in pair[side]}

    def said(sentence: str) -> list[str]:
        words = sentence.lower().split()
        people = [concepts[words[at + 1]] for at, word in enumerate(words) if word == "the"]
        people = people[::-1] if "was" in words else people
        rest = [concepts[word] for word in words if word in concepts and concepts[word] not in people]
        manner = opposites[words[-2]] if words[-3] == "not" else itself[words[-2]]
        return [*(f"{role} {person}" for role, person in zip(("by", "to"), people, strict=True)), *rest, manner]

    for example in make_examples("STS-B")["dev"]:
        first, second = map(said, example.texts)
        assert len(first) == len(second) == 6
        assert example.label == f"{5 * len(set(first) & set(second)) / 6:.3f}"


def test_a_question_leaves_out_what_it_asks_for() -> None:
    draw = random.Random(0)
    meaning = demo_world.draw_meaning(draw)
    for asked in (None, *demo_world.QUESTION_WORDS):
        for _ in range(50):
            words = demo_world.ask(meaning, draw, asked).lower().split()
            assert words[-1] == "?"
            for role, kind in (("agent", "person"), ("patient", "person"), ("place", "place"), ("time", "time")):
                concept = demo_world.WORDS[kind][getattr(meaning, role)]
                assert bool(set(concept) & set(words)) == (role != asked)
            assert ("," in words) == (asked != "manner")
