"""`charforge compare`: evaluations side by side, from views made here and from a store."""

from __future__ import annotations

import json
import random
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from charforge import intervals
from charforge.commands import compare as command
from charforge.report import compare

METRICS = {
    "words_mean": SimpleNamespace(
        label="Words, mean", unit="words", better=None, per="answer-value", meaning=""
    ),
    "leaves_role": SimpleNamespace(
        label="Leaves the role", unit="share", better="low", per="answer-flag", meaning=""
    ),
    "distinct_2": SimpleNamespace(
        label="Distinct word pairs", unit="share", better="high", per="contestant", meaning=""
    ),
}


@pytest.fixture(autouse=True)
def _few_metrics(monkeypatch):
    monkeypatch.setattr(compare, "METRICS", METRICS)


def write(folder, name, data):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(one) + "\n" for one in data), encoding="utf-8")
    else:
        path.write_text(json.dumps(data), encoding="utf-8")


def view(
    folder,
    *,
    name="Ludwig van Beethoven",
    questions=20,
    prefix="What is",
    words=(40, 20),
    leaves=(0, 0.5),
    grades=(6, 3),
    passed=True,
    contestants=("trained", "base"),
    answer="Music.",
):
    """Write a build's view: `questions` single ones of two contestants, each judged once."""
    rng = random.Random(1)
    single, measures, scores = [], [], []
    for place in range(questions):
        asked = f"{prefix} the number {place}?"
        for who, length, often, grade in zip(contestants, words, leaves, grades, strict=True):
            record = {"id": f"{who}/q{place}", "contestant": who, "question": f"q{place}", "kind": "single"}
            single.append(
                {**record, "topic": "past", "text": asked, "answer": answer, "thoughts": [], "marks": []}
            )
            measures.append(
                {
                    **record,
                    "turn": None,
                    "words": length,
                    "values": {"words_mean": length + rng.randrange(9)},
                    "flags": {"leaves_role": rng.random() < often},
                }
            )
            score = None if place == 0 else min(7, max(1, grade + rng.choice([-1, 0, 1])))
            scores.append(
                {**record, "answer": record["id"], "judge": "openai/judge", "repeat": 0}
                | {"dimension": "values", "score": score}
            )
    roster = [
        {"name": who, "kind": kind, "model": None, "reference": who == contestants[0]}
        for who, kind in zip(contestants, ("trained", "base"), strict=True)
    ]
    exam = {"judges": {"openai/judge": {"passed": passed}}}
    metrics = {
        who: {"words_mean": length + 4.0, "leaves_role": often, "distinct_2": 0.75}
        for who, length, often in zip(contestants, words, leaves, strict=True)
    }
    statistics = intervals.summarise(
        contestants=roster,
        measures=measures,
        metrics_units=METRICS,
        scores=scores,
        pairs=[],
        exam=exam,
        dimensions=["values", "stability"],
    )
    for file, data in {
        "spec.json": {"name": name, "short_name": name.split()[-1]},
        "interviews/contestants.json": roster,
        "interviews/single.jsonl": single,
        "interviews/turns.jsonl": [],
        "measures.jsonl": measures,
        "metrics.json": metrics,
        "scores.jsonl": scores,
        "statistics.json": statistics,
        "exam.json": exam,
    }.items():
        write(folder, file, data)
    return str(folder)


@pytest.fixture
def beethoven(tmp_path):
    return view(tmp_path / "build" / "beethoven")


# --- In the terminal -------------------------------------------------------------------------------------------------


def test_one_evaluation_shows_its_contestants_with_intervals(run, beethoven, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    status, out, err = run("compare", beethoven)
    assert (status, err) == (0, "")
    assert "beethoven: Ludwig van Beethoven, 20 questions and 0 interviews" in out
    assert "judge openai/judge passed its exam: usable" in out
    row = next(line for line in out.splitlines() if line.startswith("Words, mean"))
    assert re.fullmatch(r"Words, mean +44\.0 \([\d.]+ to [\d.]+\) +24\.0\* \([\d.]+ to [\d.]+\) *", row)
    assert "1 unscored" in next(line for line in out.splitlines() if line.startswith("values"))
    assert "Distinct word pairs" in out
    assert "\x1b" not in out


def test_two_builds_with_the_same_questions_are_paired(run, beethoven, tmp_path):
    other = view(tmp_path / "elsewhere" / "beethoven", words=(60, 20))
    out = run("compare", beethoven, other)[1]
    assert "beethoven (1) minus beethoven (2)" in out
    assert "on 20 questions and 0 interviews that both were given." in out
    assert re.search(r"Words, mean +−20\.0 \(−20\.0 to −20\.0\)|Words, mean +−[\d.]+", out)
    assert re.search(r"judge: values .* cannot tell", out)


def test_questions_pair_by_their_words_and_not_by_their_ids(tmp_path):
    one = view(tmp_path / "a", questions=12)
    other = view(tmp_path / "b", questions=12, prefix="WHAT  is")
    found = compare.compare([command._read(one), command._read(other)])["against"][0]
    assert found["shared"] == {"single": 12, "turns": 0}
    assert found["metrics"][0]["pairs"] == 12


def test_builds_without_a_common_question_stand_side_by_side_only(run, beethoven, tmp_path):
    other = view(tmp_path / "build" / "caesar", name="Julius Caesar", prefix="Who is")
    out = run("compare", beethoven, other)[1]
    assert "side by side only: no question was put to both, so their answers cannot be paired" in out
    found = json.loads(run("compare", beethoven, other, "--json")[1])["against"][0]
    assert (found["metrics"], found["scores"], found["comparisons"]) == ([], {}, None)


def test_different_persons_are_said_to_be_different(run, beethoven, tmp_path):
    other = view(tmp_path / "build" / "caesar", name="Julius Caesar")
    assert "different persons" in " ".join(run("compare", beethoven, other)[1].split())


def test_scores_of_a_judge_who_failed_are_shown_as_not_usable_and_decide_nothing(run, tmp_path):
    one = view(tmp_path / "a", passed=False)
    other = view(tmp_path / "b", passed=False, grades=(2, 3))
    out = run("compare", one, other)[1]
    assert "judge openai/judge failed its exam: not usable" in out
    assert "judge, 1 to 7, not usable" in out
    assert not re.search(r"(?m)^values.*\*", out)
    assert re.search(r"judge: values .* not usable", out)


def test_who_is_better_depends_on_what_is_good():
    cell = {"mean": 0.2, "low": 0.1, "high": 0.3, "decided": True, "method": "t"}
    assert [compare.verdict(cell, better) for better in ("high", "low", None)] == [
        "better",
        "worse",
        "higher",
    ]
    assert compare.verdict({**cell, "low": -0.1, "decided": False}, "high") == "cannot tell"
    assert compare.verdict({**cell, "low": None, "decided": False, "method": "too few"}, "high") == "too few"


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_tables_fit_the_width(run, beethoven, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    out = run("compare", beethoven)[1]
    tables = [line for line in out.splitlines() if re.match(r"Words, mean|Leaves the role|values|─", line)]
    assert tables
    assert max(map(len, tables)) <= width


def test_what_a_stranger_wrote_cannot_steer_the_terminal(run, tmp_path):
    evil = "x\x1b[2Jy\x07"
    folder = view(tmp_path / "evil", name=f"Lud{evil}", answer=evil, contestants=("trained", f"[red]{evil}"))
    roster = json.loads((tmp_path / "evil/interviews/contestants.json").read_text(encoding="utf-8"))
    write(tmp_path / "evil", "interviews/contestants.json", [roster[0], {**roster[1], "kind": "prompted"}])
    status, out, _ = run("compare", folder)
    assert status == 0
    assert "[red]x�[2Jy�" in out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out)
    assert "Ludx�[2Jy�" in out


# --- As data and as a page -------------------------------------------------------------------------------------------


def test_json_is_the_whole_comparison(run, beethoven):
    found = json.loads(run("compare", beethoven, beethoven, "--json")[1])
    assert [one["label"] for one in found["characters"]] == ["beethoven (1)", "beethoven (2)"]
    cell = found["characters"][0]["metrics"][1]["cells"]["base"]
    assert cell["low"] < cell["value"] < cell["high"]
    assert cell["decided"] is True
    same = found["against"][0]
    assert same["metrics"][1]["mean"] == 0
    assert not any(row["decided"] for row in (*same["metrics"], *same["scores"].values()))


class Page(HTMLParser):
    """Collects tags, and what may load something from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for key, value in attrs if key in {"src", "href"} and not value.startswith("#")]


def test_the_page_holds_everything_and_loads_nothing(run, tmp_path):
    evil = "<script>alert(1)</script>"
    one = view(tmp_path / "one", name=evil, contestants=("trained", "<img src=x>"))
    other = view(tmp_path / "two", grades=(1, 3))
    file = tmp_path / "compare.html"
    status, out, err = run("compare", one, other, "--html", str(file))
    assert (status, out, err) == (0, "", f"wrote {file}\n")
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "img", "link", "iframe", "form"} & set(page.tags)
    assert page.loads == []
    assert "style=" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "one minus two" in text
    assert "<strong>better</strong>" in text


def test_a_page_is_the_same_every_time(run, beethoven, tmp_path):
    files = [tmp_path / "a.html", tmp_path / "b.html"]
    for file in files:
        run("compare", beethoven, "--html", str(file))
    assert files[0].read_bytes() == files[1].read_bytes()


# --- Where evaluations come from -------------------------------------------------------------------------------------


def test_a_folder_that_no_build_wrote_is_told(run, tmp_path):
    status, out, err = run("compare", str(tmp_path))
    assert (status, out) == (1, "")
    assert err == (
        f"error: {tmp_path} is no finished build: interviews/contestants.json: No such file or directory\n"
        "hint: give a character's name, or a folder that a build wrote, such as build/beethoven\n"
    )


def test_a_damaged_file_is_told(run, beethoven, tmp_path):
    (tmp_path / "build" / "beethoven" / "exam.json").write_text("{", encoding="utf-8")
    status, _, err = run("compare", beethoven)
    assert status == 1
    assert err.startswith("error: beethoven: exam.json is damaged: ")


def test_a_character_never_built_says_how(run, eliza):
    assert eliza.is_file()
    assert run("compare", "eliza") == (
        1,
        "",
        "error: eliza: interviews was never built\nhint: charforge build characters/eliza.yaml --to interviews\n",
    )


def test_a_name_means_the_character_even_where_a_folder_has_it(run, eliza, monkeypatch):
    view(eliza.parents[1] / "eliza")
    assert run("compare", "eliza")[2].startswith("error: eliza: interviews was never built")
    assert run("compare", "./eliza")[0] == 0


def test_what_a_build_made_is_read_from_the_store_and_from_its_view_alike(run, eliza, scripted):
    assert scripted
    assert run("build", "eliza", "--preset=smoke")[0] == 0
    by_name = json.loads(run("compare", "eliza", "--json")[1])
    view = eliza.parents[1] / "build" / "eliza"
    assert by_name["characters"][0]["reference"] == "trained"
    by_folder = json.loads(run("compare", str(view), "--json")[1])
    assert by_folder == by_name
