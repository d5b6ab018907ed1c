"""The demo's corpora: readable as their tasks, splits that share nothing, labels that are correct and balanced."""

import hashlib
import random
from collections import Counter
from pathlib import Path

import pytest

from pkd_tune.config import Task
from pkd_tune.data.demo import world
from pkd_tune.data.demo.corpora import AX_SPLIT, CORPORA, make_examples, write_corpus
from pkd_tune.data.demo.model import vocabulary
from pkd_tune.data.examples import RawSplit
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_raw


@pytest.fixture(scope="module")
def files() -> dict[str, dict[str, bytes]]:
    """Returns the files of every task."""
    return {task: write_corpus(task) for task in TASKS}


@pytest.fixture(scope="module")
def corpora(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, dict[str, bytes]]
) -> dict[str, dict[str, RawSplit]]:
    """Returns the splits of every task as they are read from its files."""
    data_dir = tmp_path_factory.mktemp("corpora")
    read = {}
    for name, task in TASKS.items():
        folder = data_dir / "data_raw" / name
        folder.mkdir(parents=True)
        for file, content in files[name].items():
            (folder / file).write_bytes(content)
        assert {path.name for path in folder.iterdir()} == {split.file for split in task.splits}
        read[name] = load_raw(task, data_dir)
    return read


def texts(raw: dict[str, RawSplit]) -> list[tuple[str, ...]]:
    """Returns the sentences of each example of all splits."""
    return [
        texts
        for split in raw.values()
        for texts in zip(*(part for part in (split.sentence1, split.sentence2) if part is not None), strict=True)
    ]


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_corpus_is_readable_balanced_and_of_known_words(task: Task, corpora: dict[str, dict[str, RawSplit]]) -> None:
    raw = corpora[task.name]
    sizes = {"test": CORPORA["MNLI"].sizes[AX_SPLIT]} if task.name == "AX" else CORPORA[task.name].sizes
    assert {name: len(split) for name, split in raw.items()} == {s.name: sizes[Path(s.file).stem] for s in task.splits}
    for split in raw.values():
        if split.labels is not None:
            counts = Counter(split.labels)
            shares = [count / counts.total() * len(counts) for count in counts.values()]
            assert len(counts) == (7 if task.regression else task.outputs)
            assert 0.5 <= min(shares) <= max(shares) <= 1.5
    words = set(vocabulary())
    longest = 64 - 3  # positions of the model, less [CLS] and two [SEP]
    for example in texts(raw):
        assert {word for sentence in example for word in sentence.lower().split()} <= words
        assert all(sentence[0].isupper() and sentence[-1] in ".?" for sentence in example)
        assert sum(len(sentence.split()) for sentence in example) <= longest


@pytest.mark.parametrize("task", TASKS)
def test_no_example_occurs_twice_in_either_order(task: str, corpora: dict[str, dict[str, RawSplit]]) -> None:
    # AX is predicted by a model that is trained on MNLI.
    examples = [*texts(corpora[task]), *(texts(corpora["MNLI"]) if task == "AX" else [])]
    keys = {frozenset(example) for example in examples}
    assert len(keys) == len(examples)
    assert all(len(key) == len(example) for key, example in zip(map(frozenset, examples), examples, strict=True))


def test_the_corpus_of_mrpc_is_the_measured_one(files: dict[str, dict[str, bytes]]) -> None:
    # The scores in the documentation were measured on these bytes.
    digests = {name: hashlib.sha256(content).hexdigest()[:16] for name, content in files["MRPC"].items()}
    assert digests == {
        "train.tsv": "a4c79f3e89ece3c4",
        "dev.tsv": "093da9d9b1ad8147",
        "test.tsv": "fbc98bbe89675ce5",
    }


def test_another_seed_is_another_corpus() -> None:
    assert make_examples("WNLI", seed=1) == make_examples("WNLI", seed=1)
    assert make_examples("WNLI", seed=1) != make_examples("WNLI", seed=0)


def test_a_changed_meaning_is_never_the_original() -> None:
    # Later changes must not undo earlier ones, which would make the label wrong.
    draw = random.Random(0)
    for _ in range(1000):
        meaning = world.draw_meaning(draw)
        changed = world.change(meaning, draw)
        assert changed != meaning
        assert changed.agent != changed.patient


def test_scores_of_sts_b_count_shared_concepts(corpora: dict[str, dict[str, RawSplit]]) -> None:
    # Synonyms are mapped to one word, and the manner to the one it means, so that shared ones can be counted.
    concepts = {word: concept[0] for kind in world.WORDS.values() for concept in kind for word in concept}
    opposites = {word: pair[1 - side][0] for pair in world.MANNERS for side in (0, 1) for word in pair[side]}
    itself = {word: pair[side][0] for pair in world.MANNERS for side in (0, 1) for word in pair[side]}

    def meant(sentence: str) -> list[str]:
        words = sentence.lower().split()
        people = [concepts[words[at + 1]] for at, word in enumerate(words) if word == "the"]
        people = people[::-1] if "was" in words else people
        rest = [concepts[word] for word in words if word in concepts and concepts[word] not in people]
        manner = opposites[words[-2]] if words[-3] == "not" else itself[words[-2]]
        return [*(f"{role} {person}" for role, person in zip(("by", "to"), people, strict=True)), *rest, manner]

    dev = corpora["STS-B"]["dev"]
    assert dev.labels is not None
    for texts_of_example, label in zip(texts({"dev": dev}), dev.labels, strict=True):
        first, second = map(meant, texts_of_example)
        assert len(first) == len(second) == 6
        assert label == pytest.approx(5 * len(set(first) & set(second)) / 6, abs=1e-3)


def test_a_question_omits_the_role_it_asks_for() -> None:
    draw = random.Random(0)
    meaning = world.draw_meaning(draw)
    for asked in (None, *world.QUESTION_WORDS):
        for _ in range(50):
            words = world.write_question(meaning, draw, asked).lower().split()
            assert words[-1] == "?"
            for role, kind in (("agent", "person"), ("patient", "person"), ("place", "place"), ("time", "time")):
                concept = world.WORDS[kind][getattr(meaning, role)]
                assert bool(set(concept) & set(words)) == (role != asked)
            assert ("," in words) == (asked != "manner")
