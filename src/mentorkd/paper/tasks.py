"""The eight tasks of the Mentor-KD paper, as data: how each is answered, and where the reference keeps it.

File names are relative to a data root laid out as the reference's `data/` folder (`fetch_paper_data` makes one; a
recipe names it as `data.root`). Counts were taken from those files, not from the paper's text.
"""

from __future__ import annotations

from dataclasses import dataclass

from mentorkd.records import AnswerKind

__all__ = ["PAPER_MENTORS", "PAPER_TASKS", "Task", "find_task"]

PAPER_MENTORS = ("flan-t5_large", "t5_large")
"""The mentors whose augmented rationales the reference publishes, as their folders are called."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task of the paper. Its file names follow from its key; those it has no file for are None."""

    key: str
    """Name in file names and recipes."""
    title: str
    answer: AnswerKind
    choices: tuple[str, ...] | None
    """Every option letter of a choice task; one question may offer fewer (58 of Date Understanding's 369 stop at E)."""
    train_questions: int
    test_questions: int
    teacher_rationales: int | None = None
    """Rows of `teacher`, at most three a question, all correct; None where the paper's tables give no count."""
    augmented: bool = True
    """Whether the reference publishes what mentors wrote for this task."""
    prompts: bool = False
    """Whether it publishes six teacher rationales a question."""
    aliases: tuple[str, ...] = ()

    @property
    def train(self) -> str:
        """Training questions, `{input, answer}`."""
        return f"skeleton/{self.key}_train.json"

    @property
    def test(self) -> str:
        """Test questions, `{input, answer}`."""
        return f"skeleton/{self.key}_test.json"

    @property
    def teacher(self) -> str:
        """GPT-3.5's rationales of training questions, already filtered, `{input, chain, answer, initial_correct}`."""
        return f"main/{self.key}_3_train.json"

    @property
    def teacher_six(self) -> str | None:
        """Six rationales a question by the same teacher, `{instruction, output[], label}`."""
        return f"prompt/{self.key}_6.json" if self.prompts else None

    def mentor(self, name: str) -> str | None:
        """Unfiltered rationales by a mentor of PAPER_MENTORS, `{input, chain, completion, answer, initial_correct}`."""
        return f"aug/{name}/{self.key}_rand3_aug3.json" if self.augmented and name in PAPER_MENTORS else None


_TASKS = (
    Task("strategy_qa", "StrategyQA", "yes_no", None, 1603, 687, 4488, prompts=True, aliases=("strategyqa", "sqa")),
    Task("commonsense_qa", "CommonsenseQA", "choice", tuple("ABCDE"), 8520, 1221, aliases=("commonsenseqa", "csqa")),
    Task("asdiv", "ASDiv", "number", None, 1462, 314, 4269),
    Task("svamp", "SVAMP", "number", None, 700, 150, 1953),
    Task("gsm8k", "GSM8K", "number", None, 7473, 659, augmented=False, aliases=("gsm",)),
    Task(
        "tracking_shuffled_objects",
        "Tracking Shuffled Objects",
        "choice",
        tuple("ABC"),
        525,
        225,
        1536,
        prompts=True,
        aliases=("shuffled", "shuffled_objects", "tracking"),
    ),
    Task(
        "date_understanding",
        "Date Understanding",
        "choice",
        tuple("ABCDEF"),
        258,
        111,
        768,
        prompts=True,
        aliases=("date",),
    ),
    Task(
        "last_letter_concatenation",
        "Last Letter Concatenation",
        "text",
        None,
        350,
        150,
        1050,
        prompts=True,
        aliases=("last_letter", "last_letters", "lastletter"),
    ),
)

PAPER_TASKS: dict[str, Task] = {task.key: task for task in _TASKS}
"""The tasks by key, in the paper's order."""

_BY_NAME = {name: task for task in _TASKS for name in (task.key, *task.aliases)}


def find_task(name: str) -> Task | None:
    """The paper's task of this key or alias (case, hyphens and spaces do not matter), or None."""
    return _BY_NAME.get(name.strip().lower().replace("-", "_").replace(" ", "_"))
