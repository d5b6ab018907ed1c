"""The small world that every demo corpus speaks of: its words, what can happen in it, and how that is put into words.

A sentence says who did what to whom, where, when and how. Each of these is a concept that has two words ("doctor",
"physician"). Sentences that mean the same share every concept and differ in words, clause order and voice. A meaning
changes when a concept becomes another one, when the two people trade places, or when the manner turns into its
opposite ("quite loudly" against "quite quietly"; "not quietly" means the former).

MRPC's corpus came first, and the scores that the documentation quotes were measured on it: with the default arguments
`change` and `say` take the same draws in the same order as they did then, so its bytes stay what they were.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any


def _concepts(text: str) -> list[list[str]]:
    return [concept.split() for concept in text.split(",")]


# Concepts of one kind, the usual ones first. A comma ends a concept; its words stand beside each other.
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
# Each manner is a pair of opposite concepts, the usual one first.
MANNERS = [
    _concepts("loudly noisily, quietly silently"),
    _concepts("quickly rapidly, slowly leisurely"),
    _concepts("kindly nicely, harshly meanly"),
    _concepts("openly publicly, secretly privately"),
]
# Each quality is a pair of opposite concepts, the good one first.
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
"""What a sentence can leave unsaid and still be one."""
RESPECTS = ("agent", "patient", "action", "place", "time", "opposite", "swap")
"""What two meanings can differ in; `opposite` is the manner's."""

# The i-th concept of a kind is drawn with weight (i + 1) ** -1.3, while a replacement is drawn evenly. So a rare
# concept hints at a changed pair, as odd words do in real data: something a model can learn before it compares.
# It is a help, not a condition: with even weights MRPC's teacher ends at 95 % instead of 96 %.
_RARITY = 1.3
_NEGATED_SHARE = 0.3
_OPPOSITE_SHARE = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How often a speaker makes the less usual choice."""

    second_word: float = 0.25
    passive: float = 0.4


PLAIN = Style()
FORMAL = Style(second_word=0.5, passive=0.7)


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """What a sentence says: indices into the lists of concepts."""

    agent: int
    patient: int
    action: int
    place: int
    time: int
    manner: int
    opposite: bool  # whether the second concept of the manner's pair is meant


def _usual(count: int, draw: random.Random) -> int:
    """Draws an index below count, low ones most often."""
    return draw.choices(range(count), [(index + 1) ** -_RARITY for index in range(count)])[0]


def draw_meaning(draw: random.Random) -> Meaning:
    """Draws something that happens between two different people."""
    agent = patient = _usual(len(WORDS["person"]), draw)
    while patient == agent:
        # Counted from the far end: who usually acts is seldom acted upon, so a swap leaves a hint as well.
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
    """Puts one of two opposite concepts into words: 'quite loudly', or 'not quietly', which means the same."""
    negated = draw.random() < _NEGATED_SHARE
    return f"{'not' if negated else 'quite'} {choose_word(pair[second != negated], draw, style)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Spoken:
    """The words chosen for a meaning."""

    agent: str
    patient: str
    action: str
    place: str
    time: str
    manner: str
    passive: bool


def _choose_words(meaning: Meaning, draw: random.Random, style: Style) -> _Spoken:
    """Chooses every word, whether it will be said or not: what follows is drawn alike in either case."""

    def said(kind: str, index: int) -> str:
        return choose_word(WORDS[kind][index], draw, style)

    return _Spoken(
        agent=said("person", meaning.agent),
        patient=said("person", meaning.patient),
        action=said("action", meaning.action),
        place=said("place", meaning.place),
        time=said("time", meaning.time),
        manner=qualify(MANNERS[meaning.manner], meaning.opposite, draw, style),
        passive=draw.random() < style.passive,
    )


def write_sentence(words: str) -> str:
    """Returns words as a written sentence: a capital first, tokens apart as in MRPC."""
    return f"{words[0].upper()}{words[1:]}"


def say(meaning: Meaning, draw: random.Random, without: Collection[str] = (), style: Style = PLAIN) -> str:
    """Puts a meaning into one of its many possible sentences.

    Args:
        meaning: What to say.
        draw: Chooses among the possibilities.
        without: Roles to leave unsaid, of `OPTIONAL_ROLES` and 'agent': "the child was helped", "someone helped ...".
        style: How often second words and the passive are chosen.
    """
    spoken = _choose_words(meaning, draw, style)
    time_first = draw.random() < 0.5
    if "agent" in without:
        active = f"{choose_word(SOMEONE, draw, style)} {spoken.action} the {spoken.patient}"
        passive = f"the {spoken.patient} was {spoken.action}"
    else:
        active = f"the {spoken.agent} {spoken.action} the {spoken.patient}"
        passive = f"the {spoken.patient} was {spoken.action} by the {spoken.agent}"
    place = [] if "place" in without else [spoken.place]
    time = [] if "time" in without else [spoken.time]
    event = [passive if spoken.passive else active]
    manner = [] if "manner" in without else [",", spoken.manner]
    ordered = [*time, *event, *place] if time_first else [*event, *place, *time]
    return write_sentence(" ".join([*ordered, *manner, "."]))


def ask(meaning: Meaning, draw: random.Random, asked: str | None, without: Collection[str] = ()) -> str:
    """Asks for one role of a meaning, or with `asked` None whether it happened at all.

    Args:
        meaning: What the question takes for granted, except the asked role.
        draw: Chooses among the possible wordings.
        asked: A key of `QUESTION_WORDS`, or None.
        without: Roles of `OPTIONAL_ROLES` to leave unsaid.
    """
    spoken = _choose_words(meaning, draw, PLAIN)
    agent, patient, action = f"the {spoken.agent}", f"the {spoken.patient}", spoken.action
    if asked == "agent":
        event = f"by whom was {patient} {action}" if spoken.passive else f"who had {action} {patient}"
    elif asked == "patient":
        event = f"who was {action} by {agent}" if spoken.passive else f"whom had {agent} {action}"
    else:
        event = f"was {patient} {action} by {agent}" if spoken.passive else f"had {agent} {action} {patient}"
        event = event if asked is None else f"{QUESTION_WORDS[asked]} {event}"
    unsaid = {*without, asked}
    place_and_time = [word for role in ("place", "time") if role not in unsaid for word in [getattr(spoken, role)]]
    manner = [] if "manner" in unsaid else [",", spoken.manner]
    return write_sentence(" ".join([event, *place_and_time, *manner, "?"]))
