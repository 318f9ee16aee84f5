"""Numbers selected on the test set are marked everywhere, and no test accuracy is called validation."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from mentorkd.reporting.build import build_results
from mentorkd.reporting.drawing import standalone
from mentorkd.reporting.graph import draw_graph
from mentorkd.reporting.markdown import render_markdown
from mentorkd.reporting.page import render_page
from mentorkd.reporting.plots import draw_plots
from mentorkd.reporting.rows import decomposition_rows, sweep_rows, trial_rows
from mentorkd.reporting.tables import latex_table
from mentorkd.reporting.views import pair_note
from mentorkd.reporting.write import write_report

MARK, SEEDS = "selected on TEST", (42, 43)


def selected(learners, *names):
    """The learners, with those of these names (all that are trained, without names) selected on test."""
    return tuple(
        replace(info, select_on="test") if info.rationales and (not names or info.name in names) else info
        for info in learners
    )


def labels(svg):
    return [node.text or "" for node in ET.fromstring(standalone(svg)).iter() if node.tag.rsplit("}")[-1] == "text"]


@pytest.fixture(scope="module")
def paper(inputs, arms):
    """Results of arms that were all selected on test, but for the untrained model."""
    return build_results(inputs(selected(arms), seeds=SEEDS, size=20))


def section(page, start, end="</section>"):
    return page.split(start, 1)[1].split(end, 1)[0]


def test_the_page_marks_verdict_seeds_and_parts(paper):
    page = render_page(paper, {})
    parts = paper["decompositions"][0]["parts"]
    assert section(page, '<div class="verdict', '<section id="learners">').count(MARK) == 1
    assert section(page, "<summary>Each seed</summary>").count(MARK) == 5 * len(SEEDS)
    assert section(page, '<section id="gain">').count(MARK) == len(parts) + 1


def test_a_verdict_that_is_no_difference_is_marked_too(inputs):
    [alike] = [info for info in inputs().learners if info.name == "vanilla"]
    student = replace(alike, name="student", rationales=["teacher", "mentor"])
    mentor = replace(alike, name="mentor", model="large", model_key="large")
    run = inputs(selected((mentor, alike, student)), seeds=(42,), size=6)
    results = build_results(run)
    assert results["comparisons"][0]["outcome"] == "unclear"
    assert section(render_page(results, {}), '<div class="verdict', '<section id="learners">').count(MARK) == 1


def test_plots_mark_the_labels_of_their_rows(paper):
    plots = {name: labels(svg) for name, (_, svg) in draw_plots(paper).items()}
    pairs = [label for label in plots["forest"] if " − " in label]
    assert len(pairs) == 15
    assert all(pair.endswith("(TEST)") for pair in pairs)
    names = {part["part"] for part in paper["decompositions"][0]["parts"]}
    assert len([label for label in plots["decomposition"] if label.endswith("(TEST)")]) == len(names) + 1
    assert {"student (TEST)", "vanilla (TEST)", "mentor (TEST)"} <= set(plots["cost"])


def test_boxes_of_the_graph_mark_their_accuracies(paper):
    for upright in (False, True):
        told = [label for label in labels(draw_graph(paper["learners"], {}, upright=upright)) if "%" in label]
        assert sorted(label.endswith(" % (TEST)") for label in told) == [False, *[True] * 5]  # the untrained one


def test_tables_mark_the_parts_of_a_gain(paper, tmp_path):
    write_report(paper, tmp_path)
    parts = list(csv.DictReader(io.StringIO((tmp_path / "decomposition.csv").read_text(encoding="utf-8"))))
    assert len(parts) == 4
    assert {row["on_test"] for row in parts} == {"True"}
    assert (tmp_path / "decomposition.tex").read_text(encoding="utf-8").count("(TEST)") == 4
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (
        len(re.findall(r"^\| (?:mentor rationales|soft labels|interaction|all together) \(TEST\) \|", markdown, re.M))
        == 4
    )
    assert paper["decompositions"][0]["statement"].endswith("(SELECTED ON TEST)")


def test_a_part_is_marked_when_one_of_its_arms_was_selected_on_test(inputs, arms):
    [found] = build_results(inputs(selected(arms, "text"), seeds=(42,), size=20))["decompositions"]
    told = {part["part"]: part["on_test"] for part in found["parts"]}
    assert told == {"rationales": True, "soft_labels": False, "interaction": True, "total": False}
    assert ["(TEST)" in row["part"] for row in decomposition_rows(found)] == [True, False, True, False]


def test_nothing_is_marked_that_validation_selected(report):
    for path in report.rglob("*"):
        if path.is_file():
            assert re.search(r"\bTEST\b", path.read_text(encoding="utf-8")) is None, path.name


def swept(arms, *select_on):
    """Mentor, vanilla and a variant of the student for each place of selection."""
    student = next(info for info in arms if info.name == "student")
    variants = [
        replace(
            student, name=f"student@{n}", variant_of="student", swept={"student.kd_weight": n / 10}, select_on=place
        )
        for n, place in enumerate(select_on)
    ]
    return (*(info for info in arms if info.name in ("mentor", "vanilla")), *variants)


@pytest.mark.parametrize(
    ("select_on", "heading", "marks"),
    [
        (("validation", "validation"), "validation %", [False, False]),
        (("test", "test"), "test % in training", [True, True]),
        (("validation", "test"), "validation or test %", [False, True]),
    ],
)
def test_a_sweep_names_the_questions_its_accuracies_are_of(inputs, arms, select_on, heading, marks):
    results = build_results(inputs(swept(arms, *select_on), seeds=(42,), size=10))
    rows = sweep_rows(results)
    assert ["(TEST)" in row[heading] for row in rows] == marks
    title = next(label for label in labels(draw_plots(results)["sweep"][1]) if label.startswith("Test accuracy"))
    assert title.endswith("; hollow: selected on TEST") == any(marks)


def test_the_page_names_the_questions_that_selected_the_leading_variant(inputs, arms):
    for place, word in (("validation", "validation"), ("test", "TEST")):
        results = build_results(inputs(swept(arms, *[place] * 4), seeds=(42,), size=10))
        assert f"represented by the best one on {word} questions" in render_page(results, {})


def test_curves_of_test_accuracies_are_not_called_validation(inputs, arms):
    def drawn(learners):
        title, svg = draw_plots(build_results(inputs(learners, seeds=(42,), size=10)))["curves-accuracy"]
        assert title in labels(svg)
        return title, [label for label in labels(svg) if label.endswith("(TEST)")]

    assert drawn(arms) == ("Validation accuracy (%)", [])
    title, marks = drawn(selected(arms))
    assert title == "Accuracy (%) on TEST questions"
    assert len(marks) == 5
    assert drawn(selected(arms, "vanilla")) == ("Accuracy (%): validation, or TEST where marked", ["vanilla (TEST)"])
    # One validation chooses nothing, and is on test questions all the same.
    once = [replace(info, select_on="last", settings={**info.settings, "select_on": "test"}) for info in arms]
    assert drawn(tuple(once))[0] == "Accuracy (%) on TEST questions"


def test_losses_are_selected_nowhere(paper):
    title, svg = draw_plots(paper)["curves-loss"]
    assert title == "Training loss per target token"
    assert not [label for label in labels(svg) if "TEST" in label]


def test_a_search_behind_a_mentor_of_the_test_set_is_marked(inputs, arms):
    trials = [
        {"learner": name, "seed": 42, "values": {"kd_weight": 0.3}, "validation": 0.5, "chosen": True}
        for name in ("vanilla", "student")
    ]
    run = inputs(selected(arms, "mentor"), seeds=(42,), size=10, trials=trials)
    results = build_results(run)
    assert [row["learner"] for row in trial_rows(results)] == ["vanilla", "student (TEST)"]
    assert "the test set was used once" not in section(render_page(results, {}), '<section id="sweep">')


def test_page_and_markdown_say_what_is_corrected_for_the_number_of_pairs(paper, inputs):
    note = pair_note(paper)
    pairs = sum(row["family"] == "pairs" for row in paper["comparisons"])
    assert (
        f"The first pair is tested by itself; p of the 3 parts of decompositions and p of the {pairs} other pairs are each "
        "corrected for their number (Holm). Each interval is that of one test and is not corrected"
    ) in note
    table = section(render_page(paper, {}), '<section id="comparisons">')
    assert table.index("</table>") < table.index(note)
    assert note in render_markdown(paper, {})
    two = build_results(inputs(inputs().learners[:2], size=10))
    assert pair_note(two) == ""


def test_latex_sets_relations_in_mathematics():
    text = latex_table([{"p": "p < 0.0001", "q": "a > b | c"}], 1)
    assert "p $<$ 0.0001 & a $>$ b $|$ c" in text
