"""What each filter of `mentorkd.data.selection` would drop from the paper's real rationales.

    python scripts/measure_selection.py DATA MCC TOKENIZER [--model GGUF] > measured.md

DATA is the folder of the paper's data, MCC the folder with MCC-KD's `SVAMP/train.json` (ten raw rationales a question),
TOKENIZER T5's `spiece.model`. With `--model`, a causal model in GGUF form, `perplexity` is measured too, on a sample.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from mentorkd.data.prompts import CAUSAL_SEPARATOR
from mentorkd.data.readers import read_questions, read_rationales
from mentorkd.data.selection import (
    drop_duplicates,
    keep_arithmetic,
    keep_concluding,
    keep_correct,
    keep_diverse,
    keep_length,
    keep_likely,
)
from mentorkd.grading.arithmetic import check_arithmetic
from mentorkd.grading.grade import choices_of, extract
from mentorkd.paper.tasks import PAPER_TASKS, Task
from mentorkd.records import Question, Rationale

EXAMPLES = 10
SCORED = 240
LEARNED = ("SVAMP, raw", "SVAMP, flan-t5_large")
TASKS = ("svamp", "tracking_shuffled_objects", "date_understanding", "last_letter_concatenation")

Keep = Callable[[Sequence[Rationale]], Sequence[Rationale]]


class Set:
    """One file of rationales, with what the filters need to know."""

    def __init__(self, name: str, task: Task, file: Path, questions: Sequence[Question], source: str) -> None:
        self.name, self.task, self.source = name, task, source
        self.texts = {question.id: question.text for question in questions}
        self.golds = {question.id: question.answer for question in questions}
        self.rows = read_rationales(file, questions, kind=task.answer, source_name=source)
        self.correct = keep_correct(self.rows)

    def conclude(self, rationale: Rationale) -> str | None:
        kind = self.task.answer
        return extract(rationale.text, kind, choices_of(self.texts[rationale.question_id], kind))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("mcc", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()

    from sentencepiece import SentencePieceProcessor

    vocabulary = SentencePieceProcessor(model_file=str(options.tokenizer))
    sets = read_sets(options.data, options.mcc)
    teachers = {each.task.key: each for each in sets if each.source == "teacher"}
    filters: dict[str, Callable[[Set], Keep]] = {
        "deduplicate": lambda _: drop_duplicates(),
        "against the teacher": lambda each: drop_duplicates(teachers[each.task.key].correct),
        "length": lambda _: keep_length(lambda text: len(vocabulary.encode(text)), 0, 512),
        "answer_in_rationale": lambda each: keep_concluding(each.conclude),
        "arithmetic": lambda _: keep_arithmetic(lambda text: not check_arithmetic(text).wrong),
        "diverse": lambda each: lambda rows: keep_diverse(rows, 3 if each.source == "raw" else 2),
    }
    print("## What each filter alone would drop\n")
    print(
        "Counted over the rationales with a correct answer; `diverse` keeps 3 of 10 raw ones per question, 2 of 3 others.\n"
    )
    print(f"| rationales | rows | correct | {' | '.join(filters)} |\n|---|---|---|{'---|' * len(filters)}")
    wrong = [(each, rationale) for each in sets for rationale in each.rows if rationale.verdict != "correct"]
    dropped: dict[str, list[tuple[Set, Rationale]]] = {"correct": wrong, **{name: [] for name in filters}}
    for each in sets:
        cells = []
        for name, make in filters.items():
            if name == "against the teacher" and each.source in ("teacher", "raw"):
                cells.append("-")
                continue
            kept = {rationale.id for rationale in make(each)(each.correct)}
            lost = [rationale for rationale in each.correct if rationale.id not in kept]
            dropped[name] += [(each, rationale) for rationale in lost]
            cells.append(f"{len(lost)} ({len(lost) / len(each.correct):.1%})")
        print(f"| {each.name} | {len(each.rows)} | {len(each.correct)} | {' | '.join(cells)} |")

    print_equations(sets)
    for name, rows in dropped.items():
        print_examples(name, rows)
    if options.model is not None:
        print_perplexity(options.model, [each for each in sets if each.name in LEARNED])


def read_sets(data: Path, mcc: Path) -> list[Set]:
    sets = []
    for key in TASKS:
        task = PAPER_TASKS[key]
        questions = read_questions(data / task.train, split="train", kind=task.answer)
        files = {"teacher": data / task.teacher}
        files |= {mentor: data / str(task.mentor(mentor)) for mentor in ("flan-t5_large", "t5_large")}
        if key == "svamp":
            files["raw"] = mcc / "SVAMP" / "train.json"
        sets += [Set(f"{task.title}, {source}", task, file, questions, source) for source, file in files.items()]
    return sets


def print_equations(sets: Sequence[Set]) -> None:
    print("\n## Equations\n")
    print("Every `=` is a link. Unread links have no arithmetic on one side, or may have another meaning.\n")
    print("| rationales | links | hold | wrong | unread | rows with a wrong link: answer correct | answer wrong |")
    print("|---|---|---|---|---|---|---|")
    for each in sets:
        links: Counter[str] = Counter()
        rows: Counter[tuple[bool, bool]] = Counter()
        for rationale in each.rows:
            steps = check_arithmetic(rationale.text)
            links.update(hold=steps.holding, wrong=len(steps.wrong), unread=steps.unread)
            rows[rationale.verdict == "correct", bool(steps.wrong)] += 1
        total = sum(links.values())
        if total < 100:
            continue
        shares = [f"{links[key]} ({links[key] / total:.1%})" for key in ("hold", "wrong", "unread")]
        for right in (True, False):
            of = rows[right, True] + rows[right, False]
            shares.append(f"{rows[right, True]} of {of} ({rows[right, True] / of:.1%})" if of else "-")
        print(f"| {each.name} | {total} | {' | '.join(shares)} |")


def print_examples(name: str, rows: Sequence[tuple[Set, Rationale]]) -> None:
    sample = random.Random(0).sample(rows, min(EXAMPLES, len(rows)))
    print(f"\n## `{name}`: {len(sample)} of the {len(rows)} dropped\n")
    for each, rationale in sample:
        about = f"{each.name}; gold {each.golds[rationale.question_id]}"
        if name == "correct":
            about += f"; got {rationale.predicted or 'no answer'}"
        elif name == "arithmetic":
            about += f"; wrong: `{'`, `'.join(check_arithmetic(rationale.text).wrong[:3])}`"
        elif name == "answer_in_rationale":
            about += f"; the chain says {each.conclude(rationale)}"
        print(f"- ({about}) {shortened(rationale.text)}")


def print_perplexity(model: Path, sets: Sequence[Set]) -> None:
    print("\n## `perplexity`\n")
    print(
        f"{SCORED} correct rationales of each, scored by {model.stem} after their question; the worst 10 % are dropped.\n"
    )
    print("| rationales | nats per token: median | 90 % | the worst |\n|---|---|---|---|")
    score, listed = scorer(model), []
    for each in sets:
        rows = random.Random(0).sample(each.correct, SCORED)
        nll = {row.id: score(each.texts[row.question_id], row.text) for row in rows}
        kept = {rationale.id for rationale in keep_likely(rows, nll, 0.1)}
        values = sorted(nll.values())
        limit = max(nll[identity] for identity in kept)
        print(f"| {each.name} | {values[len(values) // 2]:.2f} | {limit:.2f} | {values[-1]:.2f} |")
        worst = sorted((row for row in rows if row.id not in kept), key=lambda row: -nll[row.id])
        listed += [(each, row, nll[row.id]) for row in worst[:EXAMPLES]]
    print(f"\nThe {EXAMPLES} worst of each:\n")
    for each, rationale, value in listed:
        print(f"- ({each.name}; {value:.2f} nats per token) {shortened(rationale.text)}")


def scorer(model: Path) -> Callable[[str, str], float]:
    """What tells the negative log-likelihood a token of a rationale's text after its question."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
    network = AutoModelForCausalLM.from_pretrained(model.parent, gguf_file=model.name, dtype=torch.float32).eval()

    def score(question: str, text: str) -> float:
        prompt = tokenizer(question + CAUSAL_SEPARATOR)["input_ids"]
        target = tokenizer(text, add_special_tokens=False)["input_ids"][:512]
        with torch.inference_mode():
            logits = network(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(target)).item()

    return score


def shortened(text: str, limit: int = 400) -> str:
    """One line of Markdown, cut in the middle."""
    line = " ".join(text.split()).replace("<", "&lt;").replace("*", r"\*").replace("|", r"\|")
    return line if len(line) <= limit else f"{line[: limit // 2]} [...] {line[-limit // 2 :]}"


if __name__ == "__main__":
    main()
