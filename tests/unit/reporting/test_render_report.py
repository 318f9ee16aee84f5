"""The files of a report: content, safety and determinism."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mentorkd.records import Prediction, Question, Rationale
from mentorkd.reporting.build import build_results
from mentorkd.reporting.format import format_dollars, format_points, format_seconds
from mentorkd.reporting.graph import draw_graph
from mentorkd.reporting.inputs import LearnerInfo, StageCost
from mentorkd.reporting.plots import draw_curves, draw_forest
from mentorkd.reporting.rows import learner_rows
from mentorkd.reporting.schema import TaskResult
from mentorkd.reporting.tables import latex_table, markdown_table
from mentorkd.reporting.views import axis
from mentorkd.reporting.write import read_results, write_report

PLANT = "<script>document.title='planted'</script><img src=x onerror=\"document.title='planted'\">"
ROW = {"seed": 1, "rationales": 1, "tokens": 1, "mentor_nll": 0.1, "student_nll": 0.1, "mentor_entropy": None}
ROW |= {"student_entropy": 0.1, "agreement": 1.0}
TO_FETCH = {"img": "src", "iframe": "src", "script": "src", "object": "data"}
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that elements close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def planted(inputs):
    """A run with markup in every text a user, a teacher or a model can put there."""
    questions = [Question.create(f"{PLANT} {n}", PLANT, "test") for n in range(8)]
    learners = (
        LearnerInfo(name="vanilla", model=PLANT, model_key=PLANT, rationales=["teacher"], settings={PLANT: PLANT}),
        LearnerInfo(
            name="student",
            model=PLANT,
            model_key=PLANT,
            rationales=["teacher", "mentor"],
            mentor_weights={"mentor": 1.0},
        ),
        LearnerInfo(name="mentor", model=PLANT, model_key=PLANT, rationales=["teacher"]),
    )
    verdicts = {"vanilla": "wrong", "student": "correct", "mentor": "no_answer"}
    return inputs(
        size=8,
        name=PLANT,
        seeds=(1,),
        learners=learners,
        task=TaskResult(name=PLANT, kind="text", train=1, validation=0, test=8),
        questions=questions,
        predictions={
            (info.name, 1): [
                Prediction(q.id, info.name, 1, PLANT, PLANT, verdicts[info.name], 3, False) for q in questions
            ]
            for info in learners
        },
        filters=[{"source": PLANT, "filter": PLANT, "before": 2, "after": 1}],
        dropped=[{"learner": PLANT, "reason": PLANT, "rows": 1}],
        rationales=[(questions[0], [Rationale.create(questions[0].id, PLANT, PLANT, "wrong", PLANT, 0)])],
        stages={PLANT: StageCost(kind=PLANT, learner="student", seconds=1.0)},
        serving={("student", 1): [PLANT], ("vanilla", 1): [PLANT]},
        soft_labels=[{**ROW, "learner": PLANT, "mentor": PLANT}],
        trials=[{"learner": PLANT, "seed": 1, "values": {PLANT: PLANT}, "validation": 0.5, "chosen": True}],
        faults=[PLANT],
        protocol=[PLANT],
        manifest={"command": PLANT, PLANT: {PLANT: PLANT}},
    )


def test_terminal_escapes_and_reversed_text_are_shown_in_every_file(inputs, tmp_path, monkeypatch):
    evil = "a\x1b]0;owned\x07 \x9b31m \u202egnp.exe\u202c \u2066b\u2069 \u200f"
    monkeypatch.setattr(sys.modules[__name__], "PLANT", evil)
    results = build_results(planted(inputs))
    for file in write_report(results, tmp_path):
        text = file.read_text(encoding="utf-8")
        assert not set(text) & set("\x1b\x07\x9b\u202e\u202c\u2066\u2069\u200f"), file
    assert r"\u001b]0;owned\u0007 \u009b31m \u202egnp.exe" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert read_results(tmp_path) == json.loads(json.dumps(results))  # the data itself is unchanged


@pytest.mark.parametrize(("verdict", "mark"), [("wrong", "✗"), ("no_answer", "–"), ("ungraded", "?")])
def test_a_text_is_shown_with_its_verdict(inputs, tmp_path, verdict, mark):
    question = Question.create("1 + 1?", "2", "train")
    text = Rationale.create(question.id, "It is 3.", "3", verdict, "mentor", 0)
    write_report(build_results(inputs(size=8, rationales=[(question, [text])])), tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8").partition('<section id="written">')[2]
    assert f'<span class="badge {verdict}">{verdict.replace("_", " ")} · 3</span>' in page
    assert f'</i>{mark}<span class="sr"> mentor {verdict}</span>' in page
    assert f"3, {verdict}" in (tmp_path / "report.md").read_text(encoding="utf-8").replace("\\", "")


def test_all_files_are_there(report):
    assert sorted(str(path.relative_to(report)) for path in report.rglob("*") if path.is_file()) == [
        "comparisons.csv",
        "comparisons.tex",
        "decomposition.csv",
        "decomposition.tex",
        "index.html",
        "learners.csv",
        "learners.tex",
        "plots/cost.svg",
        "plots/curves-accuracy.svg",
        "plots/curves-divergence.svg",
        "plots/curves-loss.svg",
        "plots/decomposition.svg",
        "plots/forest.svg",
        "report.md",
        "results.json",
        "run.json",
    ]


def test_the_page_says_the_verdict_first_and_has_every_section(report):
    page = Page((report / "index.html").read_text(encoding="utf-8"))
    statement = page.text.index("points of accuracy")
    for heading in (
        "Accuracy on the test questions in per cent",
        "Differences of accuracy in points",
        "Each bar begins where the previous one ends",
        "rationales (text)",
        "One line for each seed",
        "The recipe matches optimiser updates between arms",
        "Names as in the recipe",
        "Number of rationales that each filter kept",
        "student: 3 rows per seed (target over 128 tokens)",
        "dropped from train (row 17 of test.json)",
        "Mentor and trained student on the same target tokens",
        "Where learners differ",
        "Rationales of teacher and mentors",
        "as if they served this learner alone",
        "Time and tokens are sums over seeds",
        "mentorkd run recipes/shuffled.yaml",
        "torch 2.13.0",
    ):
        assert page.text.index(heading) > statement, heading
    ids = {value for name, value in page.attributes if name == "id"}
    for link in (value for name, value in page.attributes if name == "href"):
        assert link is not None
        assert link.startswith("#")
        assert link[1:] in ids


def test_ids_are_unique(report):
    ids = [
        value for name, value in Page((report / "index.html").read_text(encoding="utf-8")).attributes if name == "id"
    ]
    assert len(ids) == len(set(ids)) > 8


def test_the_page_asks_for_nothing_outside_itself(report):
    html = (report / "index.html").read_text(encoding="utf-8")
    assert re.search(r"(?:src|href|action|data)\s*=\s*[\"']?\s*(?:https?:)?//", html) is None
    assert re.search(r"@import|url\(\s*[\"']?(?!#)", html) is None
    assert "default-src 'none'" in html
    assert {"script", "link", "iframe", "img", "object", "embed"}.isdisjoint(Page(html).tags)


def test_planted_markup_is_shown_and_not_obeyed(inputs, tmp_path):
    write_report(build_results(planted(inputs)), tmp_path)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    page = Page(html)
    assert {"script", "img"}.isdisjoint(page.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert page.text.count("<script>") > 40
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    outside_fences = re.sub(r"^(`{3,})text\n.*?\n\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    assert outside_fences.count(r"\<script>") > 20
    assert re.search(r"(?<!\\)<[a-z/!?]", outside_fences) is None


@pytest.fixture(scope="module")
def chromium() -> str:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium found; install it to open the report in a real browser")
    return program


@pytest.fixture
def beacon():
    """A local server, and the paths that were asked of it."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def browse(program, page, profile):
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    logged = ["--enable-logging=stderr", f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    return subprocess.run([program, *flags.split(), *logged], capture_output=True, text=True, timeout=120, check=True)


def test_a_real_browser_runs_no_script_logs_no_error_and_asks_for_nothing(inputs, tmp_path, chromium, beacon):
    address, asked = beacon
    made = planted(inputs)
    reach = "".join(f"<{tag} {name}='{address}/{tag}'></{tag}>" for tag, name in TO_FETCH.items())
    questions = [replace(question, text=f"{question.text} {reach}") for question in made.questions]
    write_report(build_results(replace(made, questions=questions)), tmp_path)
    page, profile = tmp_path / "index.html", tmp_path / "profile"
    assert page.read_text(encoding="utf-8").count(f"{address}/img") > 5  # it is there to be obeyed
    done = browse(chromium, page, profile)
    assert "<title>planted</title>" not in done.stdout
    assert "mentorkd report</title>" in done.stdout
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<table") > 3
    assert done.stdout.count("<svg") > 1
    assert asked == []
    # A page without the report's policy and escapes does all three, so this test would see it.
    (tmp_path / "obeys.html").write_text(f"<title>obeys</title>{PLANT}{reach}<script>console.error('heard')</script>")
    done = browse(chromium, tmp_path / "obeys.html", profile)
    assert "<title>planted</title>" in done.stdout
    assert "CONSOLE" in done.stderr
    assert {f"/{tag}" for tag in TO_FETCH} <= set(asked)


def test_the_same_results_give_the_same_bytes(inputs, arms, report, tmp_path):
    for path in write_report(build_results(inputs(arms, size=60)), tmp_path):
        assert path.read_bytes() == (report / path.relative_to(tmp_path)).read_bytes(), path.name


def test_plots_are_svg_with_text_in_both_colour_schemes(report):
    for path in (report / "plots").glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        root = ET.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
        assert "prefers-color-scheme:dark" in text
        assert "#0000" not in text.split("</style>", 1)[1]  # every mark has become a variable
        assert "DejaVu" not in text


def test_drawing_a_plot_leaves_matplotlib_as_it_was(inputs):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    draw_forest(build_results(inputs(size=12))["comparisons"])
    assert dict(mpl.rcParams) == before


def test_the_markdown_report(report):
    text = (report / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# shuffled\n")
    assert re.search(r"\*\*(student beats|no difference can be shown between student and) vanilla.* 60 questions", text)
    assert "## Where the gain comes from: google/flan-t5-small" in text
    assert "| interaction | " in text
    assert "| student − text − labels + vanilla |" in text
    assert "none (untrained)" in text
    assert "| student | mentor | 0.210 | 0.340 | 0.250 | 0.360 | 93.0 | 25,200 |" in text
    assert "| student | google/flan-t5-small | teacher, mentor + soft labels of mentor |" in text
    assert "![Paired differences](plots/forest.svg)" in text
    assert "Equal for all trained learners: epochs 20, learning_rate 0.0003, precision float32" in text
    assert "| mentor | 1,575 | 1,434–1,436 | 1,342–1,344 |" in text
    for link in re.findall(r"\]\((\S+)\)", text):
        assert (report / link).is_file()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 20


def test_a_warning_opens_page_and_markdown(inputs, tmp_path):
    values = inputs(size=12)
    on_test = tuple(replace(info, select_on="test") for info in values.learners)
    write_report(build_results(replace(values, learners=on_test)), tmp_path)
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8")).text
    assert page.index("EPOCHS WERE CHOSEN ON THE TEST SET") < page.index("points of accuracy")
    assert page.count("selected on TEST") == 3 + 3 + 3 * 3 + 1  # learners, pairs, seeds, the verdict
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "> **WARNING.** EPOCHS WERE CHOSEN ON THE TEST SET for mentor, vanilla, student" in markdown


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"predictions": {}}, "No headline comparison: no learner has been evaluated yet."),
        (
            {"predictions": {}, "metrics": {}, "manifest": {}}
            | dict.fromkeys(("filters", "dropped", "rationales", "soft_labels", "faults", "protocol"), ())
            | {"stages": {}, "serving": {}},
            "No headline comparison: no learner has been evaluated yet.",
        ),
        ({"seeds": (42,)}, "This says nothing about other seeds."),
        ({"size": 1, "seeds": (42,)}, "This design has too few questions to detect any difference."),
        (
            {
                "learners": (LearnerInfo(name="vanilla", model="m", model_key="m", rationales=["teacher"]),),
                "seeds": (42,),
            },
            "No headline comparison: the recipe has only one learner, vanilla, and none to compare it with.",
        ),
    ],
    ids=["no predictions", "nothing at all", "one seed", "one question", "one learner"],
)
def test_meagre_runs_have_an_honest_page(inputs, tmp_path, changes, sentence):
    results = build_results(inputs(**({"size": 12} | changes)))
    write_report(results, tmp_path)
    assert sentence in Page((tmp_path / "index.html").read_text(encoding="utf-8")).text
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("# shuffled\n")
    assert results["headline"]["statement"] in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_csv_has_a_row_for_each_seed(report):
    rows = list(csv.DictReader(io.StringIO((report / "learners.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 18
    assert all(float(row["accuracy"]) == pytest.approx(int(row["correct"]) / 60, abs=1e-6) for row in rows)


def test_latex_escapes_what_latex_reads(inputs):
    learner = LearnerInfo(name="a_b", model=r"50%_{\x}~^$&#", model_key=r"50%_{\x}~^$&#", rationales=["teacher"])
    text = latex_table(learner_rows(build_results(inputs(size=6, learners=(learner,), seeds=(1,)))), 3)
    assert r"a\_b & 50\%\_\{\textbackslash{}x\}\textasciitilde{}\textasciicircum{}\$\&\#" in text
    assert text.count(r"\\") == 2
    assert text.count("&") - text.count(r"\&") == 2 * 7


def test_markdown_cells_stay_in_their_cells():
    assert markdown_table([{"a": "x|y\n z"}]).splitlines()[2] == r"| x\|y z |"


def test_the_graph_draws_every_learner_and_edge(inputs):
    learners = build_results(inputs(size=6))["learners"]
    for upright in (False, True):
        root = ET.fromstring(draw_graph(learners, {}, upright=upright))
        names = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {"teacher", "mentor", "vanilla", "student"} <= set(names)
        lines = [node for node in root.iter("{http://www.w3.org/2000/svg}path") if node.get("fill") == "none"]
        assert len(lines) == 5  # teacher to each, mentor's text, mentor's soft labels
        assert sum("stroke-dasharray" in node.attrib for node in lines) == 1
        width, height = (float(root.get(side)) for side in ("width", "height"))
        for box in root.iter("{http://www.w3.org/2000/svg}rect"):
            x, y, w, h = (float(box.get(key)) for key in ("x", "y", "width", "height"))
            assert 0 <= x <= x + w <= width
            assert 0 <= y <= y + h <= height


def test_graph_boxes_do_not_overlap_in_a_large_recipe(inputs):
    arms = [LearnerInfo(name="mentor", model="large", model_key="large", rationales=["teacher"])]
    arms += [LearnerInfo(name=f"arm{n}", model="s", model_key="s", rationales=["teacher", "mentor"]) for n in range(7)]
    arms += [
        LearnerInfo(
            name="last", model="s", model_key="s", rationales=["arm0", "teacher"], mentor_weights={"mentor": 1.0}
        )
    ]
    root = ET.fromstring(draw_graph(build_results(inputs(size=2, learners=tuple(arms), seeds=(1,)))["learners"], {}))
    boxes = [
        (float(box.get("x")), float(box.get("y")))
        for box in root.iter("{http://www.w3.org/2000/svg}rect")
        if box.get("width") == "176"
    ]
    assert len(boxes) == len(set(boxes)) == 10
    for i, (x, y) in enumerate(boxes):
        assert all(abs(x - x2) >= 176 or abs(y - y2) >= 54 for x2, y2 in boxes[i + 1 :])


def test_a_panel_without_data_is_not_drawn(inputs):
    results = build_results(inputs(size=2, learners=inputs().learners[:2], seeds=(1,)))
    assert draw_curves(results["curves"], results["learners"], "divergence") is None
    assert "vanilla" in (draw_curves(results["curves"], results["learners"], "loss") or "")


def test_formats():
    assert [format_dollars(x) for x in (12.3, 0.1, 0.000421, 0, None)] == ["$12.30", "$0.10", "$0.000421", "$0.00", "–"]
    assert [format_points(x) for x in (0.0934, -0.019, 0.0001, -0.0001)] == ["+9.3", "−1.9", "0.0", "0.0"]
    assert [format_seconds(x) for x in (None, 1.23, 42.4, 200, 7500)] == [
        "–",
        "1.2 s",
        "42 s",
        "3 min 20 s",
        "2 h 5 min",
    ]
    assert axis([]) == (0.0, 0.01, [0.0, 0.01])
    assert axis([-0.05, 0.136]) == (-0.05, 0.15, [-0.05, 0.0, 0.05, 0.1, 0.15])


def test_funnel_notes_count_unchecked_equations_and_name_the_unit_of_length(inputs, tmp_path):
    def row(source, name, **more):
        return {"learner": "student", "source": source, "filter": name, "before": 9, "after": 8, **more}

    filters = [
        row("teacher", "arithmetic", seed=1, equations=200, unread=50),
        row("mentor", "arithmetic", seed=1, equations=100, unread=10),
        row("mentor", "arithmetic", seed=2, equations=300, unread=50),
        row("mentor", "length", seed=2, counted_in="tokens"),
    ]
    write_report(build_results(inputs(filters=filters)), tmp_path)
    for text in (
        Page((tmp_path / "index.html").read_text(encoding="utf-8")).text,
        (tmp_path / "report.md").read_text(encoding="utf-8").replace("\\", ""),
    ):
        assert "arithmetic, teacher's rationales for student: 25.0 % of 200 equations could not be checked" in text
        assert "arithmetic, mentor's rationales for student: 15.0 % of 100–300 equations could not be checked" in text
        assert "length counts tokens of the learner's own tokenizer." in text
    told = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["filters"]
    assert [(each["equations"], each["unread"], each["counted_in"]) for each in told[-2:]] == [
        (300, 50, None),
        (None, None, "tokens"),
    ]


def test_a_run_without_these_filters_has_no_such_notes(report):
    assert "could not be checked" not in (report / "report.md").read_text(encoding="utf-8")
