"""The eight tasks of the Mentor-KD paper: the kind of answer of each task, and its files in the reference repository.

File names are relative to a data root with the layout of the reference's `data/` folder (`fetch_paper_data` creates it;
`data.root` of a recipe names it). The counts are those of the files, not those of the paper's text.
"""

from __future__ import annotations

from dataclasses import dataclass

from mentorkd.records import AnswerKind

PAPER_MENTORS = ("flan-t5_large", "t5_large")
"""Folder names of the mentors with published rationales in the reference repository."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task of the paper. File names follow from the key; a missing file is None."""

    key: str
    """The name in file names and recipes."""
    title: str
    answer: AnswerKind
    choices: tuple[str, ...] | None
    """All option letters of a choice task; a question may have fewer (58 of Date Understanding's 369 end at E)."""
    train_questions: int
    test_questions: int
    teacher_rationales: int | None = None
    """Rows of `teacher`, at most three per question, all correct; None if the paper's tables give no count."""
    augmented: bool = True
    """Whether the reference publishes rationales by mentors."""
    prompts: bool = False
    """Whether the reference publishes six teacher rationales per question."""

    @property
    def train(self) -> str:
        """Training questions: rows `{input, answer}`."""
        return f"skeleton/{self.key}_train.json"

    @property
    def test(self) -> str:
        """Test questions: rows `{input, answer}`."""
        return f"skeleton/{self.key}_test.json"

    @property
    def teacher(self) -> str:
        """GPT-3.5's filtered rationales of training questions: rows `{input, chain, answer, initial_correct}`."""
        return f"main/{self.key}_3_train.json"

    @property
    def teacher_six(self) -> str | None:
        """Six rationales per question by the same teacher: rows `{instruction, output[], label}`."""
        return f"prompt/{self.key}_6.json" if self.prompts else None

    def mentor(self, name: str) -> str | None:
        """Unfiltered rationales by a mentor of PAPER_MENTORS: rows `{input, chain, completion, answer, initial_correct}`."""
        return f"aug/{name}/{self.key}_rand3_aug3.json" if self.augmented and name in PAPER_MENTORS else None


PAPER_TASKS: dict[str, Task] = {
    task.key: task
    for task in (
        Task("strategy_qa", "StrategyQA", "yes_no", None, 1603, 687, 4488, prompts=True),
        Task("commonsense_qa", "CommonsenseQA", "choice", tuple("ABCDE"), 8520, 1221),
        Task("asdiv", "ASDiv", "number", None, 1462, 314, 4269),
        Task("svamp", "SVAMP", "number", None, 700, 150, 1953),
        Task("gsm8k", "GSM8K", "number", None, 7473, 659, augmented=False),
        Task(
            "tracking_shuffled_objects",
            "Tracking Shuffled Objects",
            "choice",
            tuple("ABC"),
            525,
            225,
            1536,
            prompts=True,
        ),
        Task("date_understanding", "Date Understanding", "choice", tuple("ABCDEF"), 258, 111, 768, prompts=True),
        Task("last_letter_concatenation", "Last Letter Concatenation", "text", None, 350, 150, 1050, prompts=True),
    )
}
"""The tasks by key, in the order of the paper."""

ALIASES = {
    "strategy_qa": ("strategyqa", "sqa"),
    "commonsense_qa": ("commonsenseqa", "csqa"),
    "gsm8k": ("gsm",),
    "tracking_shuffled_objects": ("shuffled", "shuffled_objects", "tracking"),
    "date_understanding": ("date",),
    "last_letter_concatenation": ("last_letter", "last_letters", "lastletter"),
}
"""Other names of tasks, by key."""

_BY_NAME = PAPER_TASKS | {alias: PAPER_TASKS[key] for key, aliases in ALIASES.items() for alias in aliases}


def find_task(name: str) -> Task | None:
    """The task with this key or alias, or None. Case, hyphens and spaces are ignored."""
    return _BY_NAME.get(name.strip().lower().replace("-", "_").replace(" ", "_"))
