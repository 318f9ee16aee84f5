"""Generated word problems: a running total over two to five steps, in many phrasings, with irrelevant sentences.

A seed determines all problems. The language is deliberately small (a few hundred words), so that tiny models with a tiny
vocabulary can read it. Counts stay between 2 and 99, so nouns are always in the plural and totals are never negative.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

LOWEST, HIGHEST = 2, 99
"""Bounds of every running total."""

HE = ("Ben", "Finn", "Jack", "Leo", "Max", "Omar", "Sam", "Tom")
SHE = ("Ana", "Emma", "Kate", "Lily", "Mia", "Nora", "Ruth", "Zoe")
FOOD = ("apples", "cookies", "eggs", "nuts", "pears", "plums")
TOYS = ("balls", "beads", "books", "cards", "marbles", "pencils", "shells", "stamps", "stones")
CONTAINERS = ("bag", "basket", "box")
VEHICLES = ("boat", "bus", "train")


@dataclass(frozen=True)
class Scene:
    """Sentences of one kind of story.

    Slots: {n} the number, {T} the counted things, {U} other things, {P} the person of the story, {S} he or she, {O} him
    or her, {Q} a person of the other gender, {C} the place.
    """

    starts: tuple[str, ...]
    gains: tuple[str, ...]
    losses: tuple[str, ...]
    both: tuple[str, ...]
    """A gain of {n} and a loss of {m} in one sentence."""
    asides: tuple[str, ...]
    """Sentences with an irrelevant number."""
    asks: tuple[str, ...]


PERSON = Scene(
    starts=(
        "{P} has {n} {T}.",
        "{P} owns {n} {T}.",
        "at first {P} has {n} {T}.",
        "in the morning {P} has {n} {T}.",
        "{P} comes to school with {n} {T}.",
    ),
    gains=(
        "{P} buys {n} more {T}.",
        "{S} buys {n} {T} at the shop.",
        "{S} finds {n} {T}.",
        "{P} finds {n} {T} in the park.",
        "{S} gets {n} {T} from {Q}.",
        "{P} gets {n} {T} as a gift.",
        "{P} picks up {n} {T} on the way.",
        "a friend brings {O} {n} {T}.",
    ),
    losses=(
        "{P} loses {n} {T}.",
        "{S} loses {n} {T} in the park.",
        "{S} gives {Q} {n} {T}.",
        "{P} gives {n} {T} to {Q}.",
        "{S} sells {n} {T}.",
        "{P} sells {n} {T} at the shop.",
        "{Q} takes {n} {T} from {O}.",
        "{P} gives away {n} {T}.",
        "{P} leaves {n} {T} on the bus.",
        "a friend takes {n} {T} from {O}.",
    ),
    both=(
        "{P} buys {n} {T} but loses {m} of them.",
        "{S} gets {n} {T} and sells {m} of them.",
        "{S} finds {n} {T} and gives {m} to {Q}.",
    ),
    asides=(
        "{P} also has {n} {U}.",
        "{P} is {n} years old.",
        "{Q} is {n} years old.",
        "{S} walks for {n} minutes.",
        "the shop is {n} steps away.",
    ),
    asks=(
        "How many {T} does {P} have now?",
        "How many {T} does {P} have at the end?",
        "How many {T} does {S} have left?",
        "Find the number of {T} that {P} has now.",
    ),
)

FOOD_LOSSES = ("{P} eats {n} {T}.", "{S} eats {n} of the {T}.")
TOY_GAINS = ("{P} wins {n} {T} in a game.", "{S} wins {n} {T} from {Q}.")
TOY_LOSSES = ("{P} loses {n} {T} in a game.", "{S} loses {n} {T} to {Q}.")

PLACE = Scene(
    starts=(
        "there are {n} {T} in the {C}.",
        "the {C} has {n} {T} in it.",
        "{P} has a {C} with {n} {T}.",
        "at first {n} {T} are in the {C}.",
    ),
    gains=(
        "{P} puts {n} more {T} into the {C}.",
        "{P} puts in {n} {T}.",
        "{S} adds {n} {T}.",
        "{Q} adds {n} {T} to the {C}.",
        "{Q} brings {n} more {T} for the {C}.",
    ),
    losses=(
        "{P} takes {n} {T} out of the {C}.",
        "{S} takes out {n} {T}.",
        "{n} {T} fall out of the {C}.",
        "{Q} takes {n} of the {T} home.",
        "{Q} removes {n} {T}.",
    ),
    both=(
        "{P} puts in {n} {T} and takes out {m}.",
        "{Q} adds {n} {T} but {m} fall out.",
    ),
    asides=(
        "there are {n} {U} next to the {C}.",
        "the {C} costs {n} dollars.",
        "{P} is {n} years old.",
        "the shop is {n} steps away.",
    ),
    asks=(
        "How many {T} are in the {C} now?",
        "How many {T} are in the {C} at the end?",
        "How many {T} are left in the {C}?",
        "Find the number of {T} in the {C}.",
    ),
)

RIDE = Scene(
    starts=(
        "{n} people are on the {C}.",
        "the {C} leaves with {n} people.",
        "in the morning {n} people are on the {C}.",
    ),
    gains=(
        "{n} people get on.",
        "{n} more people get on at the park.",
        "{n} people get on at the next stop.",
        "at the bridge {n} people get on.",
        "{n} people come on the {C}.",
    ),
    losses=(
        "{n} people get off.",
        "{n} people get off at the park.",
        "{n} people get off at the next stop.",
        "at the bridge {n} people get off.",
        "{n} people leave the {C}.",
    ),
    both=(
        "{n} people get on and {m} get off.",
        "at the next stop {n} people get on and {m} get off.",
    ),
    asides=(
        "the ride costs {n} dollars.",
        "the {C} is {n} years old.",
        "the ride takes {n} minutes.",
        "{n} bags are on the {C} too.",
    ),
    asks=(
        "How many people are on the {C} now?",
        "How many people are on the {C} at the end?",
        "Find the number of people on the {C}.",
    ),
)

LINKS = ("", "", "", "then ", "later ", "after that ", "in the evening ")
"""First words of the sentence of a step; "in the evening" fits the last step only."""


@dataclass(frozen=True)
class Problem:
    """A word problem with its structured form."""

    question: str
    start: int
    steps: tuple[int, ...]
    """The change of each step; negative for a loss."""
    asides: tuple[int, ...]
    """The irrelevant numbers, in the order of the text."""
    things: str
    """The counted things, in the plural."""

    @property
    def totals(self) -> tuple[int, ...]:
        """The running total at the start and after each step."""
        return tuple(accumulate(self.steps, initial=self.start))

    @property
    def answer(self) -> int:
        return self.totals[-1]


def generate_problems(seed: int) -> Iterator[Problem]:
    """An endless sequence of different problems; equal seeds give equal problems on every machine."""
    rng = random.Random(f"problems {seed}")
    seen: set[str] = set()
    while True:
        problem = _problem(rng)
        if problem.question not in seen:
            seen.add(problem.question)
            yield problem


def _problem(rng: random.Random) -> Problem:
    scene, slots = _scene(rng)
    start, steps = _numbers(rng, rng.choices((2, 3, 4, 5), weights=(50, 30, 15, 5))[0])
    sentences = [_pick(rng, scene.starts).format(n=start, **slots)]
    sentences += _step_sentences(rng, scene, slots, steps, named=slots["P"] in sentences[0])

    extras = rng.sample(scene.asides, rng.choices((0, 1), weights=(60, 40))[0])
    asides = [rng.randint(6, 14) if "years" in sentence else rng.randint(LOWEST, 40) for sentence in extras]
    places = sorted(rng.randint(1, len(sentences)) for _ in extras)
    for place, number, sentence in reversed(list(zip(places, asides, extras, strict=True))):
        sentences.insert(place, sentence.format(n=number, **slots))

    sentences.append(_pick(rng, scene.asks).format(**slots))
    question = " ".join(text[0].upper() + text[1:] for text in sentences)
    return Problem(question, start, tuple(steps), tuple(asides), slots["T"])


def _pick(rng: random.Random, phrasings: tuple[str, ...]) -> str:
    """A random phrasing; earlier phrasings are more frequent, as in natural language (Zipf's law)."""
    return rng.choices(phrasings, weights=[1 / rank for rank in range(1, len(phrasings) + 1)])[0]


def _scene(rng: random.Random) -> tuple[Scene, dict[str, str]]:
    """A scene, and the words for its slots."""
    person, other, (subject, obj) = rng.choice(HE), rng.choice(SHE), ("he", "him")
    if rng.random() < 0.5:  # two genders, so that each pronoun refers to one person
        person, other, (subject, obj) = other, person, ("she", "her")
    scene = rng.choices((PERSON, PLACE, RIDE), weights=(50, 30, 20))[0]
    things, others = rng.sample(FOOD + TOYS, 2)
    place = rng.choice(CONTAINERS)
    if scene is PERSON:
        gains, losses = ((), FOOD_LOSSES) if things in FOOD else (TOY_GAINS, TOY_LOSSES)
        scene = replace(scene, gains=scene.gains + gains, losses=scene.losses + losses)
    elif scene is RIDE:
        things, place = "people", rng.choice(VEHICLES)
    return scene, {"P": person, "Q": other, "S": subject, "O": obj, "T": things, "U": others, "C": place}


def _numbers(rng: random.Random, count: int) -> tuple[int, list[int]]:
    """A start and `count` signed steps with a running total within the bounds."""
    start = total = rng.randint(5, 60)
    steps: list[int] = []
    while len(steps) < count:
        step = rng.choice((1, -1)) * rng.randint(2, 9 if rng.random() < 0.4 else 30)
        if LOWEST <= total + step <= HIGHEST:
            steps.append(step)
            total += step
    return start, steps


def _step_sentences(
    rng: random.Random, scene: Scene, slots: dict[str, str], steps: list[int], named: bool
) -> list[str]:
    """One sentence for each step, or for a gain and a smaller loss after it.

    `named` says that the text has already named the person of the story. Before that, the name replaces pronouns.
    """
    sentences: list[str] = []
    place = 0
    while place < len(steps):
        gain, loss = steps[place], -steps[place + 1] if place + 1 < len(steps) else 0
        if gain > loss > 0 and rng.random() < 0.5:
            text, width = _pick(rng, scene.both), 2
        else:
            text, width = _pick(rng, scene.gains if gain > 0 else scene.losses), 1
        place += width
        text = text.format(n=abs(gain), m=loss, **(slots if named else slots | {"S": slots["P"], "O": slots["P"]}))
        named = named or slots["P"] in text
        links = LINKS if place == len(steps) else LINKS[:-1]
        sentences.append((rng.choice(links) if not text.startswith("at the") else "") + text)
    return sentences
