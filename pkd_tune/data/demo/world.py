"""Generates the sentences of the demo corpora: their vocabulary, meanings, and the sentences that express a meaning.

A sentence states who did what to whom, where, when and how. Each of these is a concept with two synonyms ("doctor",
"physician"). Paraphrases share all concepts and differ in words, clause order and voice. A meaning changes when a
concept is replaced, when agent and patient are swapped, or when the manner becomes its opposite ("quite loudly" and
"quite quietly"; "not quietly" means the former).

The documented scores were measured on the corpus of MRPC, so its bytes must not change: with default arguments,
`change` and `write_statement` must make the same random draws in the same order.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any


def _concepts(text: str) -> list[list[str]]:
    return [concept.split() for concept in text.split(",")]


# Concepts by kind, the most frequent first. Commas separate concepts, spaces their synonyms.
WORDS = {
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
# Each manner is a pair of opposite concepts, the more frequent one first.
MANNERS = [
    _concepts("loudly noisily, quietly silently"),
    _concepts("quickly rapidly, slowly leisurely"),
    _concepts("kindly nicely, harshly meanly"),
    _concepts("openly publicly, secretly privately"),
]
# Each quality is a pair of opposite concepts, the positive one first.
QUALITIES = [
    _concepts("charming delightful, dull boring"),
    _concepts("clever smart, silly stupid"),
    _concepts("gentle tender, cruel brutal"),
    _concepts("honest sincere, false dishonest"),
    _concepts("funny amusing, gloomy dreary"),
]
SOMEONE = ["someone", "somebody"]
QUESTION_WORDS = {"agent": "who", "patient": "whom", "place": "where", "time": "when", "manner": "how"}

OPTIONAL_ROLES = ("place", "time", "manner")
"""Roles that a sentence can omit."""
RESPECTS = ("agent", "patient", "action", "place", "time", "opposite", "swap")
"""Respects in which two meanings can differ; `opposite` is that of the manner."""

# The i-th concept of a kind is drawn with weight (i + 1) ** -1.3, a replacement with equal weights. So rare concepts
# indicate a changed pair, which a model can learn before it learns to compare sentences.
_RARITY = 1.3
_NEGATED_SHARE = 0.3
_OPPOSITE_SHARE = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """Probabilities of the less frequent choices."""

    second_word: float = 0.25
    passive: float = 0.4


PLAIN = Style()
FORMAL = Style(second_word=0.5, passive=0.7)


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """The meaning of a sentence, as indices into the lists of concepts."""

    agent: int
    patient: int
    action: int
    place: int
    time: int
    manner: int
    opposite: bool  # whether the manner is the second concept of its pair


def _usual(count: int, draw: random.Random) -> int:
    """Draws an index below count, with decreasing probabilities."""
    return draw.choices(range(count), [(index + 1) ** -_RARITY for index in range(count)])[0]


def draw_meaning(draw: random.Random) -> Meaning:
    """Draws an event between two different people."""
    agent = patient = _usual(len(WORDS["person"]), draw)
    while patient == agent:
        # In reverse order: frequent agents are rare patients, so that a swap is indicated by frequencies as well.
        patient = len(WORDS["person"]) - 1 - _usual(len(WORDS["person"]), draw)
    return Meaning(
        agent=agent,
        patient=patient,
        action=_usual(len(WORDS["action"]), draw),
        place=_usual(len(WORDS["place"]), draw),
        time=_usual(len(WORDS["time"]), draw),
        manner=draw.randrange(len(MANNERS)),
        opposite=draw.random() < _OPPOSITE_SHARE,
    )


def change(
    meaning: Meaning, draw: random.Random, respects: Sequence[str] = RESPECTS, *, least: int = 1, most: int = 3
) -> Meaning:
    """Returns a meaning that differs in at least `least` and at most `most` of the respects."""
    changed = meaning
    for respect in draw.sample(respects, draw.randint(least, most)):
        if respect == "swap":
            changed = replace(changed, agent=changed.patient, patient=changed.agent)
        elif respect == "opposite":
            changed = replace(changed, opposite=not changed.opposite)
        else:
            kind = "person" if respect in ("agent", "patient") else respect
            people = (changed.agent, changed.patient) if kind == "person" else ()
            taken = {getattr(meaning, respect), *people}
            free = [index for index in range(len(WORDS[kind])) if index not in taken]
            difference: dict[str, Any] = {respect: draw.choice(free)}
            changed = replace(changed, **difference)
    return changed


def choose_word(concept: Sequence[str], draw: random.Random, style: Style = PLAIN) -> str:
    """Returns one of a concept's two words."""
    return concept[draw.random() < style.second_word]


def qualify(pair: Sequence[Sequence[str]], second: bool, draw: random.Random, style: Style = PLAIN) -> str:
    """Expresses one of two opposite concepts: 'quite loudly', or 'not quietly', which means the same."""
    negated = draw.random() < _NEGATED_SHARE
    return f"{'not' if negated else 'quite'} {choose_word(pair[second != negated], draw, style)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wording:
    """The words chosen for a meaning."""

    agent: str
    patient: str
    action: str
    place: str
    time: str
    manner: str
    passive: bool


def _choose_words(meaning: Meaning, draw: random.Random, style: Style) -> _Wording:
    """Chooses all words, also of roles that are omitted, so that the draws that follow do not depend on them."""

    def word(kind: str, index: int) -> str:
        return choose_word(WORDS[kind][index], draw, style)

    return _Wording(
        agent=word("person", meaning.agent),
        patient=word("person", meaning.patient),
        action=word("action", meaning.action),
        place=word("place", meaning.place),
        time=word("time", meaning.time),
        manner=qualify(MANNERS[meaning.manner], meaning.opposite, draw, style),
        passive=draw.random() < style.passive,
    )


def write_sentence(words: str) -> str:
    """Returns words as a sentence: with a capital letter first, and tokens separated by spaces as in MRPC."""
    return f"{words[0].upper()}{words[1:]}"


def write_statement(meaning: Meaning, draw: random.Random, without: Collection[str] = (), style: Style = PLAIN) -> str:
    """Returns one of the possible sentences for a meaning.

    Args:
        meaning: The meaning.
        draw: Chooses among the possibilities.
        without: Roles to omit, of `OPTIONAL_ROLES` and 'agent': "the child was helped", "someone helped ...".
        style: Probabilities of second synonyms and the passive.
    """
    wording = _choose_words(meaning, draw, style)
    time_first = draw.random() < 0.5
    if "agent" in without:
        active = f"{choose_word(SOMEONE, draw, style)} {wording.action} the {wording.patient}"
        passive = f"the {wording.patient} was {wording.action}"
    else:
        active = f"the {wording.agent} {wording.action} the {wording.patient}"
        passive = f"the {wording.patient} was {wording.action} by the {wording.agent}"
    place = [] if "place" in without else [wording.place]
    time = [] if "time" in without else [wording.time]
    event = [passive if wording.passive else active]
    manner = [] if "manner" in without else [",", wording.manner]
    ordered = [*time, *event, *place] if time_first else [*event, *place, *time]
    return write_sentence(" ".join([*ordered, *manner, "."]))


def write_question(meaning: Meaning, draw: random.Random, asked: str | None, without: Collection[str] = ()) -> str:
    """Returns a question about one role of a meaning, or about the event as a whole.

    Args:
        meaning: The event, of which the question omits the role it asks for.
        draw: Chooses among the possibilities.
        asked: A key of `QUESTION_WORDS`, or None for a yes-no question.
        without: Roles of `OPTIONAL_ROLES` to omit.
    """
    wording = _choose_words(meaning, draw, PLAIN)
    agent, patient, action = f"the {wording.agent}", f"the {wording.patient}", wording.action
    if asked == "agent":
        event = f"by whom was {patient} {action}" if wording.passive else f"who had {action} {patient}"
    elif asked == "patient":
        event = f"who was {action} by {agent}" if wording.passive else f"whom had {agent} {action}"
    else:
        event = f"was {patient} {action} by {agent}" if wording.passive else f"had {agent} {action} {patient}"
        event = event if asked is None else f"{QUESTION_WORDS[asked]} {event}"
    omitted = {*without, asked}
    place_and_time = [word for role in ("place", "time") if role not in omitted for word in [getattr(wording, role)]]
    manner = [] if "manner" in omitted else [",", wording.manner]
    return write_sentence(" ".join([event, *place_and_time, *manner, "?"]))
