"""What each command prints with `--json`: one JSON object on stdout, described field by field.

`docs/json-output.md` has the same descriptions as tables. Shares and accuracies lie between 0 and 1, intervals are
`[low, high]` at 95 %, unknown values are null.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from mentorkd.records import Verdict
from mentorkd.reporting.schema import Bounds, Results, SampledResult


class PlannedStageOutput(TypedDict):
    """A stage of a plan."""

    stage: str
    """Name of the stage."""
    state: Literal["done", "resumes", "runs", "may run"]
    """`resumes`: it was killed while it ran; `may run`: it stays done if the budget gives it the same number of updates."""
    replaces: bool
    """Whether it replaces a finished result of other settings, or one that an earlier version made wrong."""
    needs: list[str]
    """Stages that it reads from."""
    rows: NotRequired[float]
    """Questions, rationales or training rows that it handles; estimated where they are yet to be written."""
    epochs: NotRequired[float]
    """Passes over the rows, of a training."""
    updates: NotRequired[float]
    """Optimiser updates, of a training."""
    tokens: NotRequired[float]
    """Estimated tokens that a model reads or writes."""
    seconds: float | None
    """Seconds that it takes; measured if it is done, else estimated; null where that is not possible."""


class PlanMachineOutput(TypedDict):
    """The machine that the estimates count on."""

    device: Literal["cpu", "gpu"]
    """Where models run."""
    name: str
    """The machine in words."""
    memory: float | None
    """Bytes of its memory, or of its GPU's; null if not known."""
    flops: float
    """Floating-point operations a second in large matrix products; measured with `--measure`, else assumed."""


class PlanMemoryOutput(TypedDict):
    """The memory of a learner at its peak."""

    learner: str
    """The learner."""
    work: Literal["train", "generate"]
    """What it does then."""
    bytes: int
    """All parts together."""
    parts: dict[str, int]
    """Bytes by part: weights, gradients, optimiser, activations, logits, mentors, keys and values, runtime."""
    fits: bool | None
    """Whether the machine has this memory; null if its memory is not known."""


class PlanDiskOutput(TypedDict):
    """What the stages that are to run write, in bytes."""

    bytes: int
    """All parts together."""
    models: int
    """Trained models."""
    soft_labels: int
    """Stores of soft labels."""
    texts: int
    """Rationales and predictions."""
    checkpoints: int
    """Checkpoints of the largest training, which are removed at its end."""
    free: int
    """Free bytes at the run folder."""


class PlanEffectOutput(TypedDict):
    """What the design of the headline's comparison can show."""

    effect: float
    """Minimum detectable effect, a share; above 1: no difference can be detected."""
    questions: int
    """Test questions."""
    seeds: int
    """Seeds."""
    arms: int
    """Arms of the student's model, whose scatter is estimated together."""
    basis: str
    """What is assumed."""


class PlanEstimatesOutput(TypedDict):
    """What the stages that are to run take, and what the run can show."""

    machine: PlanMachineOutput
    """The machine."""
    seconds: float
    """Seconds of the stages that are to run, one after another, without those in `untimed`."""
    untimed: list[str]
    """Stages whose time is not known."""
    seconds_basis: str
    """What the seconds rest on."""
    memory: list[PlanMemoryOutput]
    """The peaks of learners with a model of known size."""
    disk: PlanDiskOutput
    """The disk."""
    dollars: list[float] | None
    """The most that the teacher costs in US dollars: in its first round, and in all rounds; null without a price."""
    detectable_effect: PlanEffectOutput | None
    """The headline's comparison; null for a recipe without two arms."""


class PlanOutput(TypedDict):
    """The stages of a recipe."""

    recipe: str
    """The recipe's name."""
    stages: list[PlannedStageOutput]
    """The stages in their order."""
    dropped: list[str]
    """Faults in the data, and rationales that filters drop, each with its reason."""
    conflict: str | None
    """Why `run` refuses the folder, which belongs to another recipe, without --overwrite; null if it does not."""
    notes: list[str]
    """Results that a run would replace, how the numbers are estimated, what is equal between arms, and what is not known."""
    warnings: list[str]
    """What is likely to fail, to waste time, or to show nothing, and what to do."""
    estimates: PlanEstimatesOutput
    """Time, memory, disk, dollars, and the minimum detectable effect."""


class VerifyOutput(TypedDict):
    """The files of a run against what was published. If any is damaged, the exit code is 2."""

    files: int
    """Files that were checked; a store of soft labels and a checkpoint count as one."""
    damaged: dict[str, str]
    """What is wrong with each damaged file and what to do, by its path in the run folder."""
    edited: dict[str, str]
    """How each file differs that people may edit or remove, such as a model card, by its path; not damage."""
    unchecked: list[str]
    """Outputs without hashes that this version can read, because another version published them."""


class AnnotateOutput(TypedDict):
    """The teacher's rationales. The fields after `file` are missing for recorded rationales."""

    rationales: dict[Verdict, int]
    """Rationales by verdict."""
    file: str
    """The file of the rationales."""
    questions: NotRequired[int]
    """Questions asked."""
    solved: NotRequired[int]
    """Questions with a correct rationale."""
    samples: NotRequired[int]
    """Samples requested."""
    replies: NotRequired[int]
    """Samples with a reply."""
    correct: NotRequired[int]
    """Replies with the gold answer."""
    accuracy: NotRequired[float | None]
    """`correct` / `replies`."""
    cut: NotRequired[int]
    """Replies cut at `max_tokens`."""
    refused: NotRequired[int]
    """Replies that the endpoint refused to write."""
    empty: NotRequired[int]
    """Empty replies."""
    malformed: NotRequired[int]
    """Replies of the wrong form."""
    lost: NotRequired[int]
    """Samples without a reply after all retries."""
    requests: NotRequired[int]
    """Requests sent."""
    cached: NotRequired[int]
    """Requests answered from the cache."""
    input_tokens: NotRequired[int]
    """Tokens of prompts."""
    output_tokens: NotRequired[int]
    """Tokens of replies."""
    dollars: NotRequired[float | None]
    """Cost in US dollars; null without a price."""
    unsure_dollars: NotRequired[float | None]
    """The part of `dollars` for requests with an unknown outcome."""


class DryRunOutput(TypedDict):
    """What an annotation would ask for. Fields with `most` include all rounds of `until_correct`."""

    prompts: list[str]
    """The first three prompts."""
    cached: int | None
    """Requests answered from the cache; null for a local teacher."""
    requests: int
    """Requests of the first round that no cache holds."""
    most_requests: int
    """The most requests of all rounds, without retries."""
    input_tokens: int
    """Tokens of the prompts of `requests`."""
    most_input_tokens: int
    """Tokens of the prompts of `most_requests`."""
    output_tokens: int
    """Tokens of the replies to `requests`, each as long as allowed."""
    most_output_tokens: int
    """Tokens of the replies to `most_requests`."""
    picodollars: int | None
    """Cost of `requests` in 1e-12 US dollars; null without a price."""
    most_picodollars: int | None
    """Cost of `most_requests`."""
    counted_by: str
    """How tokens were counted."""
    warnings: list[str]
    """What to know before anything is sent, such as a key that would travel unencrypted."""


class SeedAccuracy(TypedDict):
    """One model of a learner (one seed)."""

    seed: int
    """Seed of the training."""
    correct: int
    """Questions answered correctly."""
    wrong: int
    """Questions answered otherwise."""
    no_answer: int
    """Texts without an answer; they count as not correct."""
    accuracy: float
    """`correct` / questions."""
    interval: Bounds
    """Wilson's interval of `accuracy`."""


class LearnerAccuracy(TypedDict):
    """One learner over all its seeds."""

    learner: str
    """The learner's name."""
    accuracy: float
    """Mean over seeds."""
    interval: Bounds
    """Interval of `accuracy`: it covers the choice of questions and the scatter of seeds. It is that of the report if all learners are
    asked; the seeds' scatter is estimated together with the other asked learners of the same model, so `--learner` changes it."""
    no_answer: float
    """Share of texts without an answer."""
    seeds: list[SeedAccuracy]
    """Each seed."""


class EvaluateOutput(TypedDict):
    """Accuracies on other questions."""

    questions: int
    """Questions asked, after those with faults were left out."""
    faults: dict[str, int]
    """Number of faults by kind: duplicate_question, conflicting_answers, impossible_answer, seen_question."""
    learners: list[LearnerAccuracy]
    """The learners in the order of the recipe, or of the command line."""


class SampledOutput(TypedDict):
    """pass@k and majority votes on other questions, with `--samples`."""

    questions: int
    """Questions asked, after those with faults were left out."""
    faults: dict[str, int]
    """Number of faults by kind, as in `EvaluateOutput`."""
    learners: list[SampledResult]
    """The learners in the order of the recipe, or of the command line. `vote` is null without `--vote`, and `gain` always, because
    no greedy answer is asked for."""


class AskOutput(TypedDict):
    """A learner's reply to a question."""

    learner: str
    """The learner that answered."""
    seed: int
    """Its seed."""
    rationale: str
    """Its reasoning."""
    answer: str | None
    """Its answer in normal form; null if its text has none."""
    finished: bool
    """False if the text was cut at `max_new_tokens`."""


class InspectOutput(TypedDict):
    """A store of soft labels, measured on some of its rationales."""

    form: Literal["hidden", "top_k", "chunks"]
    """What is stored: the mentor's last hidden state or its k most probable tokens, each a token, or its likelihood of each chunk."""
    mentor: str
    """Hash of the mentor."""
    tokenizer: str
    """Hash of the tokenizer."""
    target: str
    """Form of the target texts."""
    rationales: int
    """Rationales in the store."""
    tokens: int
    """Target tokens in the store."""
    bytes: int
    """Size on disk."""
    bytes_per_token: float
    """Size of a token."""
    nll: float | None
    """The mentor's negative log-likelihood of the targets, in nats a token."""
    sampled_tokens: NotRequired[int]
    """`hidden`: tokens of the measured sample."""
    entropy: NotRequired[float | None]
    """`hidden`: mean entropy of the mentor's distributions, in nats."""
    temperature: NotRequired[float]
    """`top_k`: temperature of the stored probabilities."""
    k: NotRequired[int]
    """`top_k`: tokens kept."""
    mass_kept: NotRequired[float | None]
    """`top_k`: mean probability of the kept tokens."""
    lost: NotRequired[float | None]
    """`top_k`: mean KL(exact || top k with its tail spread evenly), in nats."""
    targets_among_kept: NotRequired[float | None]
    """`top_k`: share of targets among the kept tokens."""
    mentor_tokenizer: NotRequired[str]
    """`chunks`: hash of the mentor's tokenizer."""
    chunks: NotRequired[int]
    """`chunks`: chunks in the store."""
    unlabelled_chunks: NotRequired[int]
    """`chunks`: chunks without a likelihood of the mentor."""


class ImportOutput(TypedDict):
    """What an import wrote."""

    questions: int
    """Questions in questions.jsonl."""
    rationales: NotRequired[int]
    """Rationales in rationales.jsonl; missing if the file has none."""
    verdicts: NotRequired[dict[Verdict, int]]
    """Rationales by verdict; missing if the file has none."""
    faults: dict[str, int]
    """Number of faults by kind."""


class PaperDataOutput(TypedDict):
    """The paper's data files in a folder, all verified."""

    folder: str
    """The folder."""
    fetched: list[str]
    """Files that were downloaded."""
    replaced: list[str]
    """Files that differed from the published ones and were downloaded again."""
    present: list[str]
    """Files that were there."""
    bytes: int
    """Size of all files."""


class CacheMergeOutput(TypedDict):
    """Caches of replies, merged."""

    added: dict[str, int]
    """New replies by cache."""
    replies: int
    """Replies in the merged cache."""


class CacheExportOutput(TypedDict):
    """A cache of replies, exported."""

    replies: int
    """Replies written."""
    file: str
    """The file."""


class IntervalOutput(TypedDict):
    """An interval at 95 %."""

    low: float
    """Lower end."""
    high: float
    """Upper end."""


class ScoreOutput(TypedDict):
    """An accuracy in a table of the paper."""

    accuracy: float
    """The accuracy."""
    interval: IntervalOutput
    """For the paper's numbers Wilson's interval of one run over the task's test questions."""
    seeds: int
    """Number of seeds."""
    selected_on_test: bool
    """Whether the epoch was selected on the test set."""


class TableRowOutput(TypedDict):
    """A row of a table of the paper."""

    learner: str
    """The learner, or `teacher`."""
    paper: ScoreOutput | None
    """The paper's score; null if it gives none."""
    ours: ScoreOutput | None
    """Our score; null if the learner was not run."""
    why: str
    """The reason why `ours` is null; otherwise empty."""


class ReproduceOutput(TypedDict):
    """A table or figure of the paper with our results. If no learner could be run, the exit code is 2."""

    table: str
    """Name of the table or figure."""
    task: str
    """The task."""
    run: str
    """The run folder."""
    rows: list[TableRowOutput]
    """The rows of the table."""
    notes: list[str]
    """Remarks on the numbers, each reason once."""


class CheckOutput(TypedDict):
    """An exported model beside the original, on the test questions of the run."""

    way: str
    """Who asked the exported model: `transformers`, `ctranslate2`, or the `endpoint` of `mentorkd serve`."""
    questions: int
    """Test questions."""
    accuracy: float
    """Accuracy of the exported model."""
    original_accuracy: float
    """Accuracy of the original, in the run."""
    difference: float
    """`accuracy` - `original_accuracy`."""
    interval: Bounds
    """Interval of `difference`, paired by question."""
    p: float
    """Two-sided p of `difference`."""
    only_exported: int
    """Questions that only the exported model answers correctly."""
    only_original: int
    """Questions that only the original answers correctly."""
    agreeing: int
    """Questions with the same answer of both."""
    equal_texts: int
    """Questions with the same text of both."""


class ExportOutput(TypedDict):
    """What was exported."""

    folder: str
    """The new folder."""
    form: str
    """Its form."""
    dtype: str | None
    """The type of the weights; null for a form without a choice."""
    learner: str | None
    """The learner; null for `dataset`, which has the texts of all."""
    seed: int | None
    """Its seed; null for `dataset` and `pairs`, which have the texts of every seed."""
    checks: list[CheckOutput]
    """Each way in which `--check` asked the exported model; empty without it."""


OUTPUTS: dict[str, tuple[Any, ...]] = {
    "run": (Results,),
    "quickstart": (Results,),
    "report": (Results,),
    "compare": (Results,),
    "plan": (PlanOutput,),
    "verify": (VerifyOutput,),
    "recipes": (dict[str, str],),
    "annotate": (AnnotateOutput, DryRunOutput),
    "evaluate": (EvaluateOutput, SampledOutput),
    "ask": (AskOutput,),
    "inspect": (InspectOutput,),
    "import": (ImportOutput,),
    "data paper": (PaperDataOutput,),
    "cache merge": (CacheMergeOutput,),
    "cache export": (CacheExportOutput,),
    "export": (ExportOutput,),
    "reproduce": (ReproduceOutput, dict[str, str]),
}
"""The forms of each command's output; a second form is that of `annotate --dry-run` or `reproduce` without a table."""
