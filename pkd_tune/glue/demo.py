"""A small world to run the whole search in: generated paraphrase pairs in MRPC's own format, and a small BERT folder.

Owns what `--demo` writes, so that the main job runs on a fresh machine with no download. From these files onward
nothing is special: they go through the same code as real data and a real pretrained model.

A sentence says who did what to whom, where, when and how. Each of these is a concept that has two words ("doctor",
"physician"). Equivalent sentences share every concept and differ in words, clause order and voice. Other pairs differ
in one to three respects: a concept is another one, the two people trade places, or the manner turns into its opposite
("quite loudly" against "quite quietly"; "not quietly" means the former).

Depth matters because these take more and more steps: a rare concept is suspicious by itself, to miss its match takes a
comparison, who did it takes word order and voice first. Pairs that differ only in the last, or in an opposite, stay
hard, which keeps a good teacher below 100 %.
"""

import hashlib
import json
import os
import random
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pkd_tune.config import UserError

SPLIT_SIZES = {"train": 4000, "dev": 500, "test": 400}
"""4000 pairs are 1000 optimiser steps in 8 epochs. With 500 dev pairs a score near 90 % has a standard error of 1.3."""
EQUIVALENT_SHARE = 0.64
"""MRPC's training split has 67 % equivalent pairs; a little less here widens the gap between guessing and knowing."""


def _concepts(text: str) -> list[list[str]]:
    return [concept.split() for concept in text.split(",")]


# Concepts of one kind, the usual ones first. A comma ends a concept; its words stand beside each other.
_WORDS = {
    "person": _concepts(
        "doctor physician, lawyer attorney, boss manager, teacher instructor, pilot aviator, soldier trooper, "
        "sailor mariner, writer author, farmer grower, singer vocalist, lady woman, robber thief, guest visitor, "
        "child kid"
    ),
    "action": _concepts(
        "helped assisted, called phoned, praised lauded, watched observed, scared frightened, tricked fooled, "
        "hired employed, saved rescued"
    ),
    "place": _concepts(
        "outdoors outside, indoors inside, nearby locally, abroad overseas, downstairs below, upstairs overhead, "
        "aboard onboard, backstage offstage"
    ),
    "time": _concepts("recently lately, often frequently, suddenly abruptly, finally eventually, rarely seldom"),
}
# Each manner is a pair of opposite concepts, the usual one first.
_MANNERS = [
    _concepts("loudly noisily, quietly silently"),
    _concepts("quickly rapidly, slowly leisurely"),
    _concepts("kindly nicely, harshly meanly"),
    _concepts("openly publicly, secretly privately"),
]
_KINDS = [*_WORDS.values(), *_MANNERS]
_GRAMMAR_WORDS = ("the", "was", "by", "quite", "not", ",", ".")

# The i-th concept of a kind is drawn with weight (i + 1) ** -1.3, while a replacement is drawn evenly. So a rare
# concept hints at a changed pair, as odd words do in real data: something a model can learn before it compares.
# It is a help, not a condition: with even weights a teacher ends at 95 % instead of 96 %.
_RARITY = 1.3
_SECOND_WORD_SHARE = 0.25
_PASSIVE_SHARE = 0.4
_NEGATED_SHARE = 0.3
_OPPOSITE_SHARE = 0.2
# A pair that is not equivalent differs in one, two or three of these; those that differ in three are learnt first.
_RESPECTS = ("agent", "patient", "action", "place", "time", "opposite", "swap")

# The folder stands in for a pretrained model, which a demo has no time to make. So its random weights have three
# properties of pretrained ones that help to compare sentences: words of similar meaning are near each other, attention
# looks for what resembles the word itself, and a head's output opposes its input (a match leaves little behind).
# With independent random weights the same model learns so late that the same training ends at 75 %.
_MODEL = {
    "num_hidden_layers": 4,
    "hidden_size": 96,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.05,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Meaning:
    """What a sentence says: indices into the lists of concepts."""

    agent: int
    patient: int
    action: int
    place: int
    time: int
    manner: int
    opposite: bool  # whether the second concept of the manner's pair is meant


Pair = tuple[str, str, bool]
"""Two sentences, and whether they mean the same."""


def _usual(count: int, draw: random.Random) -> int:
    """Draws an index below count, low ones most often."""
    return draw.choices(range(count), [(index + 1) ** -_RARITY for index in range(count)])[0]


def _draw_meaning(draw: random.Random) -> _Meaning:
    agent = patient = _usual(len(_WORDS["person"]), draw)
    while patient == agent:
        # Counted from the far end: who usually acts is seldom acted upon, so a swap leaves a hint as well.
        patient = len(_WORDS["person"]) - 1 - _usual(len(_WORDS["person"]), draw)
    return _Meaning(
        agent=agent,
        patient=patient,
        action=_usual(len(_WORDS["action"]), draw),
        place=_usual(len(_WORDS["place"]), draw),
        time=_usual(len(_WORDS["time"]), draw),
        manner=draw.randrange(len(_MANNERS)),
        opposite=draw.random() < _OPPOSITE_SHARE,
    )


def _change(meaning: _Meaning, draw: random.Random) -> _Meaning:
    """Returns a meaning that differs in one to three respects."""
    changed = meaning
    for respect in draw.sample(_RESPECTS, draw.randint(1, 3)):
        if respect == "swap":
            changed = replace(changed, agent=changed.patient, patient=changed.agent)
        elif respect == "opposite":
            changed = replace(changed, opposite=not changed.opposite)
        else:
            kind = "person" if respect in ("agent", "patient") else respect
            people = (changed.agent, changed.patient) if kind == "person" else ()
            taken = {getattr(meaning, respect), *people}
            free = [index for index in range(len(_WORDS[kind])) if index not in taken]
            change: dict[str, Any] = {respect: draw.choice(free)}
            changed = replace(changed, **change)
    return changed


def _say(meaning: _Meaning, draw: random.Random) -> str:
    """Puts a meaning into one of its many possible sentences, tokens apart as in MRPC."""

    def word(concept: list[str]) -> str:
        return concept[draw.random() < _SECOND_WORD_SHARE]

    agent, patient = word(_WORDS["person"][meaning.agent]), word(_WORDS["person"][meaning.patient])
    action = word(_WORDS["action"][meaning.action])
    place, time = word(_WORDS["place"][meaning.place]), word(_WORDS["time"][meaning.time])
    negated = draw.random() < _NEGATED_SHARE
    manner = f"{'not' if negated else 'quite'} {word(_MANNERS[meaning.manner][meaning.opposite != negated])}"
    active, passive = f"the {agent} {action} the {patient}", f"the {patient} was {action} by the {agent}"
    event = passive if draw.random() < _PASSIVE_SHARE else active
    sentence = f"{time} {event} {place}" if draw.random() < 0.5 else f"{event} {place} {time}"
    return f"{sentence[0].upper()}{sentence[1:]} , {manner} ."


def make_pairs(*, seed: int = 0) -> dict[str, list[Pair]]:
    """Draws the train, dev and test pairs; no pair, in either order, occurs twice anywhere."""
    draw = random.Random(seed)
    seen: set[frozenset[str]] = set()
    splits: dict[str, list[Pair]] = {}
    for split, size in SPLIT_SIZES.items():
        pairs: list[Pair] = []
        while len(pairs) < size:
            meaning = _draw_meaning(draw)
            equivalent = draw.random() < EQUIVALENT_SHARE
            other = meaning if equivalent else _change(meaning, draw)
            first, second = _say(meaning, draw), _say(other, draw)
            key = frozenset((first, second))
            if len(key) == 2 and key not in seen:
                seen.add(key)
                pairs.append((first, second, equivalent))
        splits[split] = pairs
    return splits


def _tsv(split: str, pairs: list[Pair], first_id: int) -> bytes:
    """MRPC's columns; like the real files, train and dev start with a byte-order mark and test has no labels."""
    lines = [f"{'index' if split == 'test' else 'Quality'}\t#1 ID\t#2 ID\t#1 String\t#2 String"]
    for index, (first, second, equivalent) in enumerate(pairs):
        label = index if split == "test" else int(equivalent)
        sentence_id = first_id + 2 * index
        lines.append(f"{label}\t{sentence_id}\t{sentence_id + 1}\t{first}\t{second}")
    return "".join(f"{line}\n" for line in lines).encode("utf-8" if split == "test" else "utf-8-sig")


def vocabulary() -> list[str]:
    """Returns every token of the demo in the order of its id, [PAD] first."""
    words = {word for kind in _KINDS for concept in kind for word in concept}
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_GRAMMAR_WORDS, *sorted(words)]


def _write_model(folder: Path, seed: int) -> None:
    """Writes the stand-in for a pretrained model; the comment at `_MODEL` says why its weights are as they are."""
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel, BertTokenizer

    ids = {token: index for index, token in enumerate(vocabulary())}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = BertModel(BertConfig(vocab_size=len(ids), architectures=["BertModel"], **_MODEL))
        hidden, std = model.config.hidden_size, model.config.initializer_range
        words_VD = model.embeddings.word_embeddings.weight  # V: tokens, D: hidden size
        words_VD *= 0.5
        for kind in _KINDS:
            kind_D = torch.randn(hidden) * std
            for concept in kind:
                concept_D = torch.randn(hidden) * std
                for word in concept:
                    words_VD[ids[word]] += kind_D + concept_D
        # What a word is should weigh more than where it stands, until training says otherwise.
        model.embeddings.position_embeddings.weight *= 0.5

        for layer in model.encoder.layer:
            attention = layer.attention
            torch.nn.init.normal_(attention.self.query.weight, std=0.08)
            attention.self.key.weight.copy_(attention.self.query.weight)
            torch.nn.init.orthogonal_(attention.self.value.weight, gain=0.7)
            attention.output.dense.weight.copy_(-attention.self.value.weight.T)

    model.config.save_pretrained(folder)
    # What `model.save_pretrained` writes, without its progress bar.
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    BertTokenizer(vocab=ids, model_max_length=model.config.max_position_embeddings).save_pretrained(folder)
    (folder / "vocab.txt").write_bytes("".join(f"{token}\n" for token in ids).encode())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_demo(data_dir: Path, *, seed: int = 0) -> Path:
    """Writes the demo's corpus and model below a folder, unless they are there already.

    `demo.json` beside them says which seed and which version of this module made them, and what each file's hash is.
    It is written first, so that what a stopped run left half done is told from files of another origin.

    Args:
        data_dir: Gets data_raw/MRPC/{train,dev,test}.tsv and models/pretrained/demo/.
        seed: Decides every pair and every weight; the same seed gives the same bytes.

    Returns:
        The model folder.

    Raises:
        UserError: A file that the demo would replace is there and is not the demo's.
    """
    model_dir = data_dir / "models" / "pretrained" / "demo"
    record_path = data_dir / "demo.json"
    made_by = {"seed": seed, "generator": _digest(Path(__file__))}
    record = json.loads(record_path.read_text(encoding="utf-8")) if record_path.exists() else {"files": {}}
    is_ours = made_by.items() <= record.items()
    names = record["files"] if is_ours else ()
    if names and all((data_dir / name).exists() and _digest(data_dir / name) == names[name] for name in names):
        return model_dir

    data_dir.mkdir(parents=True, exist_ok=True)
    # On the same disk as the result, so that each finished file takes its place in one step.
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".demo-") as temporary:
        staged = Path(temporary)
        (tsv_dir := staged / "data_raw" / "MRPC").mkdir(parents=True)
        next_id = 1
        for split, pairs in make_pairs(seed=seed).items():
            (tsv_dir / f"{split}.tsv").write_bytes(_tsv(split, pairs, next_id))
            next_id += 2 * len(pairs)
        _write_model(staged / model_dir.relative_to(data_dir), seed)

        made = sorted(path for path in staged.rglob("*") if path.is_file())
        files = {path.relative_to(staged).as_posix(): _digest(path) for path in made}
        foreign = [data_dir / name for name in files if (data_dir / name).exists() and name not in record["files"]]
        if foreign:
            raise UserError(*(f"{path} is not the demo's: use another data folder, or move it" for path in foreign))
        (staged / "demo.json").write_text(json.dumps({**made_by, "files": files}, indent=2) + "\n", encoding="utf-8")
        os.replace(staged / "demo.json", record_path)
        for name in files:
            (data_dir / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged / name, data_dir / name)
    return model_dir
