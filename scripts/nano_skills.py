"""Basic skills as short texts, and the vocabulary, for the pretraining of the nano models.

Each example is a source and a target text. None is a question or a rationale of the quickstart: the skills name
numbers, words and signs, and never tell a story. Everything follows from the random generator that is passed in.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mentorkd.quickstart.problems import FOOD, HE, SHE, TOYS, generate_problems
from mentorkd.quickstart.teacher import annotate

__all__ = ["SKILLS", "Example", "build_tokenizer", "example", "reworded"]

NAMES = HE + SHE
THINGS = FOOD + TOYS
COLOURS = ("red", "blue", "green", "white", "black", "yellow")
COMMANDS = "copy numbers names run sums find all last spell swap skip"
SIGNS = (("+", "-"), ("plus", "minus"), ("up", "down"), ("more", "less"))
COMMON = (
    "a about add again all also am an and another any are as ask at back be been before began big bring but by call "
    "came can cannot correct could day did do does each end equal even every few five for four from get go good had has "
    "have he her here him his how I if in into is it its just know last left less let like long look made make "
    "many may me more most much must my new no not number of off on one only or other our out over own question "
    "right said same saw see she should since small so some step sum ten than that the their them there these "
    "they think this three time to total two until up us use was way we well went were what when where which "
    "while who why will with word would wrong yes you your Therefore answer A An And But He How If In It No Now "
    "Since So table take wait The There They This To We What When Which Yes"
)
FRAGMENTS = (
    "an ar al at ch ck ea ed ee en er es et ic in ing ion is it le ll ly ment ness nd on oo or ou ow qu re ro sh "
    "ss st th ti tion un us"
)
NOISE = (
    "the",
    "of",
    "a",
    "and",
    "to",
    "in",
    "at",
    "now",
    "then",
    "too",
    "some",
    "is",
    "are",
    "with",
    "for",
    "on",
    "from",
)
MARKS = {sign for pair in SIGNS for sign in pair} | {"skip"}
FORMS = tuple(
    (equals, end) for equals in (":", "=", "is", "makes") for end in (" ;", " ,", ".") if (equals, end) != ("=", ".")
)
"""How a sum may be told: what stands before its result, and what after; but for the quickstart's own `1 + 2 = 3.`"""
HIGHEST = 99
"""The largest number: those up to it are single pieces."""
PRINTABLE = string.printable[:94]


def _words() -> list[str]:
    """Every word of the quickstart's task, of the skills, and some common English, sorted."""
    problems = list(islice(generate_problems(0), 3000))
    texts = [p.question for p in problems] + [row.rationale for row in annotate(problems, samples=1, seed=0)]
    texts += [COMMANDS, COMMON, " ".join(NAMES + THINGS + COLOURS + NOISE), " ".join(a + " " + b for a, b in SIGNS)]
    return sorted({word for text in texts for word in re.findall(r"[A-Za-z]+", text)})


def build_tokenizer() -> PreTrainedTokenizerFast:
    """About 600 pieces: whole words, the numbers 0 to 99, single characters, T5's special tokens.

    A Unigram model whose scores make it prefer a whole word to fragments, and fragments to characters. A number of one
    or two digits is one piece, so that a sum is a fact of three pieces; a longer one is its digits. Text of printable
    ASCII is never unknown; runs of white space count as one space.
    """
    singles = [chr(code) for code in range(33, 127)]
    scored: dict[str, float] = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁-->": -2.0, "▁": -9.0}
    scored |= dict.fromkeys(singles, -10.0)
    scored |= {"▁" + character: -10.0 for character in string.digits + string.ascii_letters + "+-=*/$(\"'"}
    scored |= dict.fromkeys(FRAGMENTS.split(), -12.0)
    scored |= {"▁" + str(number): -2.0 for number in range(10, 100)}
    scored |= {"▁" + word: -2.0 for word in _words() if len(word) > 1}

    tokenizer = Tokenizer(models.Unigram(list(scored.items()), unk_id=2))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
            pre_tokenizers.Split(
                Regex(r"▁?-->|▁[1-9][0-9](?![0-9])|▁?[0-9]|▁?[A-Za-z]+|▁?[^▁0-9A-Za-z]|▁"), behavior="isolated"
            ),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


WORDS = _words()
Example = tuple[str, str]
Skill = Callable[[random.Random, float], Example]


def _count(rng: random.Random, low: int, high: int, reach: float) -> int:
    """A length between `low` and, at `reach` 1, `high`: the curriculum begins with short examples."""
    return rng.randint(low, low + round((high - low) * reach))


def _number(rng: random.Random) -> int:
    return rng.randint(0, 9) if rng.random() < 0.3 else rng.randint(10, 99)


def _noise(rng: random.Random, count: int) -> list[str]:
    return [rng.choice(WORDS if rng.random() < 0.6 else NOISE) for _ in range(count)]


def copying(rng: random.Random, reach: float) -> Example:
    count = _count(rng, 1, 10, reach)
    parts = [str(_number(rng)) if rng.random() < 0.3 else rng.choice(WORDS) for _ in range(count)]
    if rng.random() < 0.3:  # letters and signs that form no word
        parts = ["".join(rng.choices(PRINTABLE, k=_count(rng, 1, 5, reach))) for _ in range(_count(rng, 1, 4, reach))]
    text = " ".join(part + rng.choice(("", "", "", "", ",", ".", "?")) for part in parts)
    return f"copy: {text}", text


def reading_numbers(rng: random.Random, reach: float) -> Example:
    numbers = [_number(rng) for _ in range(_count(rng, 1, 6, reach))]
    parts: list[str] = []
    for number in numbers:
        parts += [*_noise(rng, _count(rng, 0, 3, reach)), str(number)]
    return "numbers: " + " ".join([*parts, *_noise(rng, _count(rng, 0, 3, reach))]), " ".join(map(str, numbers))


def reading_names(rng: random.Random, reach: float) -> Example:
    names = [rng.choice(NAMES) for _ in range(_count(rng, 1, 4, reach))]
    parts: list[str] = []
    for name in names:
        parts += [*(word for word in _noise(rng, _count(rng, 0, 4, reach)) if word not in NAMES), name]
    return "names: " + " ".join(parts), " ".join(names)


def sums(rng: random.Random, reach: float) -> Example:
    """Sums and differences of numbers up to 99: one is answered alone, several are said again, each with its answer."""
    questions, answers = [], []
    for _ in range(_count(rng, 1, 6, reach)):
        a, b = _number(rng), rng.randint(0, 9) if rng.random() < 0.3 else rng.randint(10, 40)
        if a < b or (a + b <= HIGHEST and rng.random() < 0.6):
            questions.append(f"{a} + {b}")
            answers.append(a + b)
        else:
            questions.append(f"{a} - {b}")
            answers.append(a - b)
    if len(questions) == 1:
        return f"{questions[0]} =", str(answers[0])
    told = " ; ".join(f"{question} : {answer}" for question, answer in zip(questions, answers, strict=True))
    return "sums: " + " , ".join(questions), told


def running_totals(rng: random.Random, reach: float) -> Example:
    """Follow a number through signed steps among noise; numbers marked `skip` do not count."""
    signs = rng.choice(SIGNS)
    noise = rng.choice((0, 0, 2, 4))
    total = rng.randint(2, 70)
    source = [str(total)]
    moves: list[int] = []
    count = _count(rng, 1, 5, reach)
    totals = [total]
    while len(moves) < count:
        if rng.random() < 0.15:
            source += ["skip", str(_number(rng))]
            continue
        move = rng.choice((1, -1)) * rng.randint(1, 9 if rng.random() < 0.3 else 40)
        if not 0 <= total + move <= HIGHEST:
            continue
        total += move
        moves.append(move)
        totals.append(total)
        step = [signs[move < 0], str(abs(move))]
        if signs[0] in ("more", "up") and rng.random() < 0.5:
            step.reverse()
        between = [word for word in _noise(rng, _count(rng, 0, noise, reach)) if word not in MARKS]
        source += [*between, *step, rng.choice((",", ",", ".", *NOISE))]

    shape = rng.choice(("signed", "signed", "signed", "reversed", "reversed", "numbers"))
    if shape == "numbers":
        return f"run {shape}: " + " ".join(source), " ".join(map(str, totals))
    told = {"signed": "{a} {s} {n} : {b}", "reversed": "{s} {n} , {a} , {b}"}[shape]
    steps = [
        told.format(a=before, n=abs(move), b=after, s="+-"[move < 0])
        for before, move, after in zip(totals, moves, totals[1:], strict=False)
    ]
    return f"run {shape}: " + " ".join(source), " ; ".join(steps)


def look_ups(rng: random.Random, reach: float) -> Example:
    keys = rng.sample(rng.choice((NAMES, THINGS, COLOURS)), _count(rng, 2, 4, reach))
    pairs = [(rng.choice(keys), _number(rng)) for _ in range(_count(rng, 1, 6, reach))]
    wanted = rng.choice(pairs)[0]
    told = " , ".join(f"{n} {key}" if rng.random() < 0.5 else f"{key} {n}" for key, n in pairs)
    return f"find all {wanted}: {told}", " ".join(str(n) for key, n in pairs if key == wanted)


def last_letters(rng: random.Random, reach: float) -> Example:
    if rng.random() < 0.4:
        word = rng.choice(WORDS)
        return f"spell: {word}", " ".join(word)
    words = rng.sample(WORDS, _count(rng, 1, 4, reach))
    return "last: " + " ".join(words), " ".join(word[-1] for word in words)


def swaps(rng: random.Random, reach: float) -> Example:
    row = rng.sample(rng.choice((NAMES, THINGS, COLOURS)), 3)
    told, states = [" ".join(row)], []
    for _ in range(_count(rng, 1, 3, reach)):
        i, j = rng.sample(range(3), 2)
        told.append(f"{row[i]} {row[j]}")
        row[i], row[j] = row[j], row[i]
        states.append(" ".join(row))
    return "swap: " + " ; ".join(told), " ; ".join(states)


SKILLS: dict[Skill, float] = {
    running_totals: 0.48,
    sums: 0.25,
    reading_numbers: 0.1,
    copying: 0.07,
    reading_names: 0.04,
    look_ups: 0.03,
    last_letters: 0.02,
    swaps: 0.01,
}
"""The skills and their shares of the examples."""


def reworded(rng: random.Random, source: str, target: str) -> Example:
    """The same sums told in another form, which the source names first."""
    equals, end = rng.choice(FORMS)
    return f"{equals}{end} {source}", target.replace(" : ", f" {equals} ").replace(" ;", end)


def example(rng: random.Random, reach: float = 1.0, forms: bool = True) -> Example:
    """A source and its target; `reach` in (0, 1] bounds how long it is; `forms`: sums are told in many forms."""
    skill = rng.choices(list(SKILLS), weights=list(SKILLS.values()))[0]
    source, target = skill(rng, reach)
    if forms and " : " in target and skill in (sums, running_totals) and rng.random() < 0.75:
        return reworded(rng, source, target)
    return source, target
