"""Own texts in a report: the rounds on the page and in results.json, their plots, the graph of learners, and collapses."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import asdict, replace
from html import unescape

import pytest

from made_up_records import own_texts
from made_up_run import MENTOR, STUDENT, VANILLA
from mentorkd.reporting import schema
from mentorkd.reporting.build import build_results
from mentorkd.reporting.collapse import LEAST_ACCURACY, LEAST_ENTROPY, advice, collapses
from mentorkd.reporting.format import format_setting, learns_from
from mentorkd.reporting.graph import draw_graph
from mentorkd.reporting.own_texts import rounds_of
from mentorkd.reporting.reread import inputs_of
from mentorkd.reporting.round_plots import PANELS
from mentorkd.reporting.write import write_report

OWN = replace(
    STUDENT,
    name="own",
    rationales=["teacher", "self"],
    kd_weight={"teacher": 0.3, "self": 1.0},
    temperature=1.0,
    distillation={"divergence": {"teacher": "forward_kl", "self": "reverse_kl"}, "own_texts.rounds": 2},
)
STAR = replace(OWN, name="star", mentor_weights={}, kd_weight=None, temperature=None, distillation={})
CONTINUED = replace(OWN, name="continued", rationales=["self"], initial="vanilla", kd_weight=1.0)
FOLDED = replace(MENTOR, folds=2)
LEARNERS = (FOLDED, VANILLA, OWN, STAR, CONTINUED)
SEEDS = (1, 2)


def rounds(learner: str, seed: int, **last: object) -> list[dict[str, object]]:
    """Three trainings; `last` changes what the learner wrote for the last."""
    mentor = {} if learner != "star" else dict.fromkeys(("writer_kl", "trained_kl", "overlap", "reencoded"))
    written = [None, own_texts(**mentor), own_texts(**mentor | {"writer_entropy": 1.4, "trained_entropy": 1.2} | last)]
    return [
        {
            "learner": learner,
            "seed": seed,
            "round": number,
            "updates": 15,
            "target_tokens": 5_000,
            "validation": 0.5 + 0.1 * number,
            "chosen": number == 1,
            "own_texts": None if own is None else asdict(own),
            "frontier": [{"source": "teacher", "questions": 40, "at_floor": 12}] if own and learner == "own" else [],
        }
        for number, own in enumerate(written)
    ]


ROUNDS = [row for name in ("own", "star", "continued") for seed in SEEDS for row in rounds(name, seed)]


@pytest.fixture(scope="module")
def results(inputs):
    return build_results(inputs(LEARNERS, SEEDS, 12, rounds=ROUNDS))


@pytest.fixture(scope="module")
def written(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(results, folder)
    return folder


@pytest.mark.parametrize(
    ("entropy", "accuracy", "fell"),
    [
        ((1.2, 0.59), (0.5, 0.5), ["entropy fell from 1.200 to 0.590 nats per token"]),
        ((1.2, 0.6), (0.5, 0.25), []),
        ((1.2, 1.2), (0.5, 0.2), ["validation accuracy fell from 50.0 to 20.0 %"]),
        ((1.2, 0.1), (0.5, 0.0), ["entropy fell", "validation accuracy fell from 50.0 to 0.0 %"]),
        ((1.2, 1.2), (LEAST_ACCURACY, 0.0), ["validation accuracy fell"]),
        ((1.2, 1.2), (LEAST_ACCURACY - 1e-6, 0.0), []),
        ((1.2, 1.2), (0.0, 0.0), []),
        ((LEAST_ENTROPY, 0.0), (0.5, 0.5), ["entropy fell"]),
        ((LEAST_ENTROPY - 1e-6, 0.0), (0.5, 0.5), []),
        ((1.2, 1.2), (None, 0.0), []),
        ((None, None), (0.5, None), []),
    ],
)
def test_less_than_half_is_a_collapse_above_a_floor(entropy, accuracy, fell):
    lines = collapses(entropy, accuracy)
    assert len(lines) == len(fell)
    assert all(line.startswith(start) for line, start in zip(lines, fell, strict=True))


def test_a_slow_collapse_is_told_once():
    def slow(*writers):
        return collapses((1.0, 1.0), (0.5, 0.5), writers)

    assert slow(1.5, 1.1, 0.74) == ["the writer's entropy fell from 1.500 in round 1 to 0.740 nats per token"]
    assert slow(1.5, 1.1, 0.74, 0.5) == slow(1.5, 1.1, 0.75) == slow(1.5) == slow() == []
    assert slow(LEAST_ENTROPY - 1e-6, 0.0) == []


def test_the_report_warns_of_a_slow_collapse(inputs):
    entropies = ((1.5, 1.0), (1.0, 0.7), (0.7, 0.5), (0.5, 0.4))
    rows = rounds("star", 1)[:1]
    rows += [
        rounds("star", 1, writer_entropy=writer, trained_entropy=trained)[-1] | {"round": number}
        for number, (writer, trained) in enumerate(entropies, 1)
    ]
    warnings = build_results(inputs((MENTOR, VANILLA, STAR), (1,), 12, rounds=rows))["warnings"]
    [warning] = [line for line in warnings if "collapsed" in line]
    told = "seed 1, round 3: the writer's entropy fell from 1.500 in round 1 to 0.700 nats per token"
    assert warning.startswith(f"The own texts of star collapsed ({told}). To prevent it")


def test_the_advice_fits_the_learner():
    assert "{self: forward_kl} or {self: jsd}" in advice(imitated=True, alone=False)
    assert "divergence" not in advice(imitated=False, alone=False)
    assert "keep `teacher`" in advice(imitated=True, alone=False)
    assert "add `teacher`" in advice(imitated=True, alone=True)


def test_a_collapse_is_a_caveat_of_its_learner_alone(inputs):
    rows = [row for row in ROUNDS if row["learner"] != "star"]
    rows += [*rounds("star", 1), *rounds("star", 2, trained_entropy=0.3)]
    rows[-1]["validation"] = 0.1
    [warning] = [
        line for line in build_results(inputs(LEARNERS, SEEDS, 12, rounds=rows))["warnings"] if "collapsed" in line
    ]
    assert warning.startswith("The own texts of star collapsed (seed 2, round 2: entropy fell from 1.400 to 0.300")
    assert "seed 2, round 2: validation accuracy fell from 60.0 to 10.0 %" in warning
    assert "lower `training.learning_rate`" in warning
    assert not any(
        "collapsed" in line for line in build_results(inputs(LEARNERS, SEEDS, 12, rounds=ROUNDS))["warnings"]
    )


def test_results_have_the_rounds(results):
    row = next(row for row in results["rounds"] if row["own_texts"])
    assert set(row) == set(schema.RoundResult.__annotations__)
    assert set(row["own_texts"]) == set(schema.OwnTextsResult.__annotations__)
    assert set(row["frontier"][0]) == set(schema.FrontierResult.__annotations__)
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    kinds = {
        learner["name"]: (learner["role"], learner["initial"], learner["folds"]) for learner in results["learners"]
    }
    assert kinds == {
        "mentor": ("mentor", None, 2),
        "vanilla": ("mentor", None, 1),  # `continued` starts from its weights
        "own": ("student", None, 1),
        "star": ("student", None, 1),
        "continued": ("student", "vanilla", 1),
    }
    assert not results["decompositions"]


def test_rounds_survive_a_comparison_from_the_files(results):
    again = build_results(inputs_of(results, {}))
    assert again["rounds"] == results["rounds"]
    assert [(one["initial"], one["folds"]) for one in again["learners"]] == [
        (one["initial"], one["folds"]) for one in results["learners"]
    ]
    old = {key: value for key, value in results.items() if key != "rounds"}
    assert inputs_of(old, {}).rounds == []


@pytest.mark.parametrize("page", ["index.html", "report.md"])
def test_a_section_shows_the_rounds(written, page):
    text = (written / page).read_text(encoding="utf-8")
    for shown in (
        "Own texts",
        "0.707 → 0.616",
        "1.400 → 1.200",
        "25.0",
        "teacher 12 of 40",
        "1 ✓",
        "Entropy: how undecided",
    ):
        assert shown in text
    text = unescape(text)
    assert all(panel.title in text for panel in PANELS.values())


def test_columns_and_sentences_are_those_of_measures_that_are_known(inputs, tmp_path):
    made = inputs((MENTOR, VANILLA, STAR), (1,), 12, rounds=rounds("star", 1))
    write_report(build_results(made), tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    table = text.partition("### Rounds of star")[2].partition("\n##")[0]
    head = table.strip().splitlines()[0]
    assert "entropy" in head
    assert not any(name in head for name in ("KL to the mentor", "overlap", "re-encoded", "floor", "seed"))
    assert "KL to the mentor: " not in text
    assert not (tmp_path / "plots" / "own-texts-kl.svg").exists()
    assert (tmp_path / "plots" / "own-texts-entropy.svg").exists()


def test_a_report_without_own_texts_has_no_section(report):
    assert "own-texts" not in (report / "index.html").read_text(encoding="utf-8")
    assert "Own texts" not in (report / "report.md").read_text(encoding="utf-8")


def test_plots_have_a_line_for_each_learner_that_has_the_measure(written):
    for name, learners in (("kl", {"own", "continued"}), ("entropy", {"own", "star", "continued"})):
        svg = (written / "plots" / f"own-texts-{name}.svg").read_text(encoding="utf-8")
        words = {text.text for text in ET.fromstring(svg).iter() if text.tag.endswith("text")}
        assert words & {"own", "star", "continued"} == learners
        assert "#0000" not in svg


def test_the_graph_shows_own_texts_folds_and_initial_weights(results):
    svg = draw_graph(results["learners"], rounds_of(results))
    words = [text.text for text in ET.fromstring(svg).iter() if text.tag.endswith("text")]
    assert words.count("↻ own texts, 2 rounds") == 3
    assert words.count("2 folds") == 1
    assert "self" not in words
    assert svg.count('stroke-dasharray="1.5 3.5"') == 1


def test_settings_by_source_are_written_out(results, written):
    assert format_setting({"teacher": 0.3, "self": 1.0}) == "teacher 0.3, self 1"
    assert "w teacher 0.3, self 1, τ 1" in (written / "index.html").read_text(encoding="utf-8")
    names = {learner["name"]: learns_from(learner) for learner in results["learners"]}
    assert names["continued"] == "own texts + soft labels of mentor + weights of vanilla"
