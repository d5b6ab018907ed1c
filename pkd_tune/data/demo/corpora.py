"""The demo's corpora: synthetic examples of each GLUE task, made of the sentences of `world`, and their TSV files.

Labels follow from the text alone. Each task mixes differences that models learn early with others that need several
steps of composition (word order, voice, negation), so that scores depend on depth.
"""

import csv
import functools
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pkd_tune.config import TaskSplit
from pkd_tune.data.demo.world import (
    FORMAL,
    OPTIONAL_ROLES,
    PLAIN,
    QUALITIES,
    RESPECTS,
    WORDS,
    Meaning,
    Style,
    change,
    choose_word,
    draw_meaning,
    qualify,
    write_question,
    write_sentence,
    write_statement,
)
from pkd_tune.data.glue import TASKS

TICKETS = "tickets"
"""Name of the demo's task that is not GLUE's: support tickets in seven queues."""

TICKETS_FILE = """\
# The demo's task file: tickets, each a subject and a body, are sorted into seven queues.
name = "tickets"

[data]
train = "train.csv"
dev = "dev.csv"
test = "test.csv"
text = ["subject", "body"]
label = "queue"
metrics = ["macro_f1", "accuracy"]
"""


@dataclass(frozen=True, slots=True)
class Example:
    """One example of any task."""

    texts: tuple[str, ...]
    """One sentence or two."""
    label: str
    """As written in the TSV files of the task."""


def _visible(without: set[str], *, hidden: str | None = None) -> list[str]:
    """Returns the respects in which a difference is visible in a text that omits the given roles."""
    unsaid = {*without, hidden}
    roles = {"opposite": {"manner"}, "swap": {"agent", "patient"}}
    return [respect for respect in RESPECTS if not roles.get(respect, {respect}) & unsaid]


def _mrpc(draw: random.Random, split: str) -> Example:
    """Whether two statements mean the same; 64 % do, in MRPC 67 %."""
    meaning = draw_meaning(draw)
    equivalent = draw.random() < 0.64
    other = meaning if equivalent else change(meaning, draw)
    return Example((write_statement(meaning, draw), write_statement(other, draw)), str(int(equivalent)))


def _qqp(draw: random.Random, split: str) -> Example:
    """Whether two questions ask the same; others are about another event, or another role in it."""
    meaning = draw_meaning(draw)
    duplicate = draw.random() < 0.4
    asked: tuple[str | None, ...] = (None, "agent", "patient", "place", "time")
    first = second = draw.choice(asked)
    without = set(draw.sample(OPTIONAL_ROLES, 1))
    other = meaning
    if not duplicate and draw.random() < 0.3:
        second = draw.choice([role for role in asked if role != first])
    elif not duplicate:
        other = change(meaning, draw, _visible(without, hidden=first))
    return Example(
        (write_question(meaning, draw, first, without), write_question(other, draw, second, without)),
        str(int(duplicate)),
    )


def _infer(draw: random.Random, relation: str, style: Style = PLAIN) -> tuple[str, str]:
    """Returns a premise, and a hypothesis about the same event.

    entailment: the hypothesis says less than the premise, perhaps "someone" for the agent. contradiction: it says less,
    and differs in one or two respects. neutral: it says something that the premise omits.
    The premise always omits one role, and the hypothesis one or two, so that the label does not follow from length.
    """
    meaning = draw_meaning(draw)
    order = draw.sample(OPTIONAL_ROLES, 3)
    untold = {order[0]}
    count = draw.randint(1, 2)
    unsaid = set(order[1 : 1 + count] if relation == "neutral" else order[:count])
    if draw.random() < 0.2:
        unsaid.add("agent")
    other = change(meaning, draw, _visible(unsaid), most=2) if relation == "contradiction" else meaning
    return write_statement(meaning, draw, untold, style), write_statement(other, draw, unsaid)


def _mnli(draw: random.Random, split: str) -> Example:
    """Premise and hypothesis in three classes; premises of the mismatched splits have a style not seen in training."""
    relation = draw.choice(("entailment", "neutral", "contradiction"))
    return Example(_infer(draw, relation, FORMAL if "mismatched" in split else PLAIN), relation)


def _rte(draw: random.Random, split: str) -> Example:
    """As MNLI, with neutral and contradiction as one class."""
    relation = draw.choice(("entailment", "entailment", "neutral", "contradiction"))
    return Example(_infer(draw, relation), "entailment" if relation == "entailment" else "not_entailment")


def _qnli(draw: random.Random, split: str) -> Example:
    """Whether a statement answers a question about one role.

    If not, the statement is about another event, or omits that role. It always omits one role.
    """
    meaning = draw_meaning(draw)
    answered = draw.random() < 0.5
    asked = draw.choice(("agent", *OPTIONAL_ROLES))
    others = [role for role in OPTIONAL_ROLES if role != asked]
    unsaid = {draw.choice(others)}
    other = meaning
    question = write_question(meaning, draw, asked, unsaid)
    if not answered and draw.random() < 0.5:
        unsaid = {asked}
    elif not answered:
        other = change(meaning, draw, _visible(unsaid, hidden=asked))
    return Example((question, write_statement(other, draw, unsaid)), "entailment" if answered else "not_entailment")


QUEUES = ("support", "callback", "praise", "security", "complaints", "fraud", "jobs", "support")
"""The queue of a ticket by what was done, an index into the concepts of actions."""


def _ticket(draw: random.Random, split: str) -> Example:
    """A ticket: its subject says how somebody was, its body what was done, which decides the queue.

    Most bodies tell of two events. Where these are joined by "although" it is the one outside that clause that counts,
    and by "but" the second; joined by "and", the one that was done by the person of the subject.
    """
    matter, other = draw_meaning(draw), draw_meaning(draw)
    while other.action == matter.action or other.agent == matter.agent:
        other = draw_meaning(draw)
    person = choose_word(WORDS["person"][matter.agent], draw)
    subject = write_sentence(f"the {person} was {qualify(draw.choice(QUALITIES), draw.random() < 0.5, draw)} .")
    form = draw.choice(("alone", "although first", "although last", "but", "and", "and last"))
    if form == "alone":
        return Example((subject, write_statement(matter, draw, {draw.choice(OPTIONAL_ROLES)})), QUEUES[matter.action])
    told, untold = (_clause(each, draw) for each in (matter, other))
    body = {
        "although first": f"although {untold} , {told} .",
        "although last": f"{told} , although {untold} .",
        "but": f"{untold} , but {told} .",
        "and": f"{told} , and {untold} .",
        "and last": f"{untold} , and {told} .",
    }[form]
    return Example((subject, write_sentence(body)), QUEUES[matter.action])


def _clause(meaning: Meaning, draw: random.Random) -> str:
    """Returns a statement without its manner as part of a longer sentence."""
    text = write_statement(meaning, draw, {"manner", draw.choice(("place", "time"))})
    return f"{text[0].lower()}{text[1:].removesuffix(' .')}"


def _wnli(draw: random.Random, split: str) -> Example:
    """A statement in which "who" refers to one of two people, and a claim about whom it refers to.

    A wrong claim names the other person, or someone who was not mentioned.
    """
    meaning = draw_meaning(draw)
    right = draw.random() < 0.5
    people = [WORDS["person"][index] for index in (meaning.agent, meaning.patient)]
    agent, patient = (choose_word(person, draw) for person in people)
    action = choose_word(WORDS["action"][meaning.action], draw)
    pair, second = draw.choice(QUALITIES), draw.random() < 0.5
    quality = qualify(pair, second, draw)
    meant = draw.randrange(2)
    if meant == 0:
        sentence = f"the {agent} , who was {quality} , {action} the {patient} ."
    else:
        sentence = f"the {agent} {action} the {patient} , who was {quality} ."
    guess = people[meant]
    if not right and draw.random() < 0.5:
        guess = people[1 - meant]
    elif not right:
        guess = draw.choice([person for person in WORDS["person"] if person not in people])
    claim = f"the {choose_word(guess, draw)} was {quality} ."
    return Example((write_sentence(sentence), write_sentence(claim)), str(int(right)))


def _stsb(draw: random.Random, split: str) -> Example:
    """Similarity of two statements: five times the share of six concepts that they have in common."""
    respects = [respect for respect in RESPECTS if respect != "swap"]
    meaning = draw_meaning(draw)
    different = draw.randint(0, len(respects))
    other = change(meaning, draw, respects, least=different, most=different)
    score = 5 * (len(respects) - different) / len(respects)
    return Example((write_statement(meaning, draw), write_statement(other, draw)), f"{score:.3f}")


def _sst2(draw: random.Random, split: str) -> Example:
    """Sentiment of a statement: that of the main clause, not of the clause before "but" or after "although"."""
    good = draw.random() < 0.55
    form = draw.choice(("alone", "and", "but", "although first", "although last"))
    pairs = draw.sample(QUALITIES, 3)
    verdict, same = (qualify(pair, not good, draw) for pair in pairs[:2])
    against = qualify(pairs[2], good, draw)
    one, two = (choose_word(person, draw) for person in draw.sample(WORDS["person"], 2))
    time = choose_word(draw.choice(WORDS["time"]), draw)
    sentence = {
        "alone": f"{time} the {one} was {verdict} .",
        "and": f"{time} the {one} was {verdict} and {same} .",
        "but": f"the {one} was {against} , but {time} {verdict} .",
        "although first": f"although the {two} was {against} , {time} the {one} was {verdict} .",
        "although last": f"{time} the {one} was {verdict} , although the {two} was {against} .",
    }[form]
    return Example((write_sentence(sentence),), str(int(good)))


def _cola(draw: random.Random, split: str) -> Example:
    """A statement or a question, correct or with a single mistake.

    Half of the mistakes are local: a verb in the wrong form, an article after its noun. The others are not: a time or
    place occurs twice ("recently ... finally"), or a question contains its answer ("where had the boss helped the kid
    outdoors").
    """
    meaning = draw_meaning(draw)
    acceptable = draw.random() < 0.65
    distant = not acceptable and draw.random() < 0.5
    role, other = draw.sample(("place", "time"), 2)
    if draw.random() < 0.5:
        words = write_question(meaning, draw, role, {other} if draw.random() < 0.5 else ()).lower().split()
        if distant:
            end = words.index(",") if "," in words else len(words) - 1
            words.insert(end, choose_word(WORDS[role][getattr(meaning, role)], draw))
    else:
        words = write_statement(meaning, draw, {"manner", other} if draw.random() < 0.5 else {"manner"}).lower().split()
        if distant:
            again = choose_word(draw.choice(WORDS[role]), draw)
            words.insert(draw.choice((0, len(words) - 1)), again)
    if not acceptable and not distant:
        _misplace(words, draw)
    return Example((write_sentence(" ".join(words)),), str(int(acceptable)))


def _misplace(words: list[str], draw: random.Random) -> None:
    """Makes a local mistake, in place."""
    actions = {word for concept in WORDS["action"] for word in concept}
    verb = next(at for at, word in enumerate(words) if word in actions)
    if draw.random() < 0.5:
        article = draw.choice([at for at, word in enumerate(words) if word == "the"])
        words[article : article + 2] = reversed(words[article : article + 2])
    elif "was" in words:
        words[words.index("was")] = "were"
    else:
        words.insert(verb + 1, "by")


_USUAL_SIZES = {"train": 4000, "dev": 500, "test": 400}

AX_SPLIT = "ax"
"""Drawn with the splits of MNLI, with which it shares no pair: AX is predicted by a model trained on them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """How to generate the examples of a task."""

    make: Callable[[random.Random, str], Example]
    sizes: dict[str, int]
    """Number of examples by the split's file name; at 500, the standard error of an accuracy of 90 % is 1.3 points."""


# Fewer examples for tasks that are easily learnt (CoLA, SST-2). WNLI has more than the real 635, with which students of
# one and two layers do not learn.
CORPORA = {
    "CoLA": Corpus(make=_cola, sizes={**_USUAL_SIZES, "train": 2000}),
    "SST-2": Corpus(make=_sst2, sizes={**_USUAL_SIZES, "train": 1500}),
    "MRPC": Corpus(make=_mrpc, sizes=_USUAL_SIZES),
    "STS-B": Corpus(make=_stsb, sizes=_USUAL_SIZES),
    "QQP": Corpus(make=_qqp, sizes=_USUAL_SIZES),
    "MNLI": Corpus(
        make=_mnli,
        sizes={
            "train": 4000,
            "dev_matched": 500,
            "dev_mismatched": 500,
            "test_matched": 400,
            "test_mismatched": 400,
            AX_SPLIT: 400,
        },
    ),
    "QNLI": Corpus(make=_qnli, sizes=_USUAL_SIZES),
    "RTE": Corpus(make=_rte, sizes={**_USUAL_SIZES, "train": 2500}),
    TICKETS: Corpus(make=_ticket, sizes={**_USUAL_SIZES, "train": 3000}),
    "WNLI": Corpus(make=_wnli, sizes={"train": 1000, "dev": 70, "test": 140}),
}


@functools.lru_cache(maxsize=1)  # MNLI and AX are written one after the other
def make_examples(task: str, *, seed: int = 0) -> dict[str, list[Example]]:
    """Draws every split of a task; no sentence or pair, in either order, occurs twice in all of them."""
    corpus = CORPORA[task]
    # MRPC keeps the seed from before there were other tasks, and with it its files.
    draw = random.Random(seed if task == "MRPC" else f"{task} {seed}")
    seen: set[frozenset[str]] = set()
    splits: dict[str, list[Example]] = {}
    for split, size in corpus.sizes.items():
        examples: list[Example] = []
        while len(examples) < size:
            example = corpus.make(draw, split)
            key = frozenset(example.texts)
            if len(key) == len(example.texts) and key not in seen:
                seen.add(key)
                examples.append(example)
        splits[split] = examples
    return splits


def write_corpus(task: str, *, seed: int = 0) -> dict[str, bytes]:
    """Returns the contents of a task's files by file name: TSV files, for `TICKETS` CSV files and the task file."""
    if task == TICKETS:
        drawn = make_examples(task, seed=seed)
        tables = {f"{split}.csv": _csv(examples).encode() for split, examples in drawn.items()}
        return {**tables, f"{TICKETS}.toml": TICKETS_FILE.encode()}
    drawn = {"test": make_examples("MNLI", seed=seed)[AX_SPLIT]} if task == "AX" else make_examples(task, seed=seed)
    files = {}
    first_id = 0
    for split in TASKS[task].splits:
        text = _tsv(split, drawn[Path(split.file).stem], first_id)
        # As in the real data, the train and dev files of MRPC start with a byte order mark.
        marked = task == "MRPC" and split.part != "test"
        files[f"{split.file}"] = text.encode("utf-8-sig" if marked else "utf-8")
        first_id += len(drawn[Path(split.file).stem])
    return files


def _csv(examples: Sequence[Example]) -> str:
    """Returns the text of a CSV file of tickets."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["subject", "body", "queue"])
    writer.writerows([*example.texts, example.label] for example in examples)
    return text.getvalue()


def _tsv(split: TaskSplit, examples: Sequence[Example], first_id: int) -> str:
    """Returns the text of a TSV file; columns without a meaning here contain a hyphen."""
    layout = split.layout
    assert layout is not None
    columns = layout.header or ("source", "label", "star", "sentence")  # CoLA's files without header
    lines = [] if layout.header is None else ["\t".join(columns)]
    for row, example in enumerate(examples):
        number = first_id + row
        sentence_ids = {
            "#1 ID": 2 * number + 1,
            "#2 ID": 2 * number + 2,
            "qid1": 2 * number + 1,
            "qid2": 2 * number + 2,
        }
        known = {"index": row, "id": row, **sentence_ids}
        cells = [str(known.get(column, "-")) for column in columns]
        cells[layout.sentence1] = example.texts[0]
        if layout.sentence2 is not None:
            cells[layout.sentence2] = example.texts[1]
        if layout.label is not None:
            cells[layout.label] = example.label
        lines.append("\t".join(cells))
    return "".join(f"{line}\n" for line in lines)
