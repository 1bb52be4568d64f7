"""The report says what was measured, shows words untouched and harmless, and is the same for the same records."""

from __future__ import annotations

import base64
import hashlib
import html as html_module
import json
import re
from html.parser import HTMLParser

import pytest

from charforge import metrics
from charforge.report import page, plots
from charforge.stages import report

SPEC = {
    "charforge": 1,
    "id": "anna",
    "name": "Anna Ley",
    "short_name": "Anna",
    "knows": {"until": "1901-01-01", "never": ["cinema"]},
    "train": {"base_model": "embedded/tiny", "method": "full", "epochs": 2},
    "judge": {"model": "embedded/tiny", "dimensions": ["memorization", "values"]},
}
PROFILE = {
    "name": "Anna Ley",
    "licence": "CC0-1.0",
    "source": "Written here.",
    "paragraphs": [{"id": "p1", "number": 1, "section": "", "text": "Anna Ley kept the lamp."}],
}
SUMMARY = {
    "base_loss": 1.72,
    "epochs": [
        {"epoch": 1, "train_loss": 1.6, "held_out_loss": 1.43},
        {"epoch": 2, "train_loss": 1.1, "held_out_loss": 1.45},
    ],
    "chosen_epoch": 1,
    "samples": 72,
    "training_samples": 70,
    "held_out": ["written/a", "written/b"],
    "trained_tokens": 26000,
    "tokens": 60000,
    "parameters": 134515008,
}
LOG = [
    {"step": n, "epoch": 1 + n // 11, "loss": 2 - n / 20, "learning_rate": 1e-4, "tokens": 900}
    for n in range(1, 21)
]
NASTY = "<script>alert(1)</script>\x1b[31m red \u202egnp\u202c <img src=x onerror=alert(2)> & \"quotes\" '{{ 7*7 }}'"


def answers(**said):
    return [
        {
            "id": f"{contestant}/q{number}",
            "contestant": contestant,
            "question": f"q{number}",
            "topic": "traps" if number > 10 else ("past", "values")[number % 2],
            "text": f"Question {number}?",
            "answer": f"{text} {number}",
            "thoughts": [],
            "finish_reason": "stop",
            "marks": ["cut-off"] if number == 3 else [],
        }
        for contestant, text in said.items()
        for number in range(16)
    ]


SINGLE = answers(trained="I kept the lamp", base="As an AI I keep nothing")
TURNS = [
    {
        "id": f"{contestant}/m1",
        "contestant": contestant,
        "question": "m1",
        "topic": "past",
        "subject": "The lamp.",
        "marks": ["scripted-question"],
        "turns": [
            {"role": "Visitor", "action": "speaking", "content": "Why?", "marks": ["scripted-question"]},
            {"role": "Anna", "action": "thinking", "content": "Hm.", "marks": []},
            {"role": "Anna", "action": "speaking", "content": "", "marks": ["empty"]},
        ],
    }
    for contestant in ("trained", "base")
]


def score(contestant, dimension, value, unscored=None, *, judge="embedded/tiny", answer="q1"):
    return {
        "id": f"{contestant}/{answer}/{dimension}/0",
        "answer": f"{contestant}/{answer}",
        "contestant": contestant,
        "topic": "past",
        "dimension": dimension,
        "score": value,
        "unscored": unscored,
        "verdict": "{}",
        "judge": judge,
        "evidence": [],
    }


SCORES = [
    score("trained", "memorization", 5),
    score("trained", "memorization", 6, answer="q2"),
    score("trained", "values", None, "cut off"),
    score("base", "memorization", None, "not JSON"),
    score("base", "values", 1),
]


def build(**changed):
    arguments = {
        "spec": SPEC,
        "profile": PROFILE,
        "dataset_stats": {"scenes": 40, "dialogues": 52, "words": 12345, "mean_turns": 9.25},
        "yields": {
            "scenes": {"asked": 50, "accepted": 10, "wanted": 10, "rejected": {"too-short": 3, "copied": 37}}
        },
        "rejected": [
            {"id": f"scene/p1/{n}/0", "rule": "copied", "detail": "d", "text": "t" * 2000, "call": "c"}
            for n in range(30)
        ],
        "train_log": LOG,
        "train_summary": SUMMARY,
        "probes": [{"question": "Who are you?", "before": "An assistant.", "after": f"The keeper. {NASTY}"}],
        "single": SINGLE,
        "turns": TURNS,
        "scores": SCORES,
        "metrics": metrics.measure(SINGLE, TURNS, profile=PROFILE, name="Anna Ley", short_name="Anna"),
        "samples": [
            {
                "id": "written/night",
                "kind": "written",
                "scene": None,
                "title": "At night",
                "paragraphs": ["p1"],
                "type": "chat",
                "location": "The lamp room",
                "background": "It storms.",
                "turns": [{"role": "Anna", "action": "speaking", "content": "Come in."}],
            }
        ],
        "provenance": {"charforge": "0.1.0", "stages": {"profile": "ab" * 32}},
    } | changed
    return report.build(**arguments)


EMPTY = {
    "dataset_stats": {},
    "yields": {},
    "rejected": [],
    "train_log": [],
    "train_summary": {},
    "single": [],
    "turns": [],
    "scores": [],
    "metrics": {},
    "samples": [],
    "provenance": {},
}


def text_of(html):
    """Return a page's words, one space between them."""
    body = re.sub(r"<(style|svg)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(html_module.unescape(re.sub(r"<[^>]+>", " ", body)).split())


class Tags(HTMLParser):
    """Every tag with its attributes, and whether all are closed."""

    VOID = frozenset({"meta", "br", "img", "link", "rect", "line", "circle", "path", "input"})

    def __init__(self, html):
        super().__init__()
        self.found, self.open, self.ids = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        assert self.open.pop() == tag


# --- what it says ----------------------------------------------------------------------------------------------------


def test_probe_answers_stand_side_by_side():
    html, _ = build()
    assert "<td>An assistant.</td>" in html
    assert "The keeper. &lt;script&gt;" in html
    assert "Probe" not in build(probes=[])[0]


def test_what_was_split_or_left_out_is_said():
    summary = SUMMARY | {"split": 1, "left_out": [{"source": "a", "part": 1, "tokens": 3000}] * 2}
    html, data = build(train_summary=summary)
    assert (
        "1 dialogue was longer than the context and split between turns; 2 turns did not fit even alone and were left out."
        in html
    )
    assert (data["training"]["split"], data["training"]["left_out"]) == (1, 2)


def test_a_weight_difference_is_named():
    train = SPEC["train"] | {"base_model": {"delta": "fnlp/x-wdiff", "onto": "llama-7b"}, "method": "lora"}
    html, _ = build(spec=SPEC | {"train": train})
    assert "llama-7b with the weight difference fnlp/x-wdiff" in html
    assert "a LoRA adapter tuned" in html


def test_it_says_first_who_this_is_and_whether_training_helped():
    text = text_of(build()[0])
    assert (
        "A language model that answers as Anna Ley: embedded/tiny, 135M parameters, with all of its weights tuned, trained "
        "on 52 dialogues (12 345 words)." in text
    )
    assert (
        "Yes. On dialogues it never saw, the loss of Anna’s own turns fell from 1.72 to 1.43, a perplexity of 5.58 before and "
        "4.18 after. Epoch 1 of 2 was kept." in text
    )


def test_training_that_did_not_help_is_said_not_to():
    summary = {**SUMMARY, "base_loss": 1.40}
    assert "No. On dialogues it never saw, the loss of Anna’s own turns went from 1.40 to 1.43" in text_of(
        build(train_summary=summary)[0]
    )


def test_what_the_loss_counts_is_said():
    html, _ = build(spec={**SPEC, "train": {**SPEC["train"], "loss": "completion"}})
    assert "the loss of whole dialogues fell from 1.72 to 1.43" in text_of(html)
    assert "Trained with 70 samples" in text_of(html)


def test_the_data_set_is_told_by_kind_and_in_all():
    all_, some = (
        {"scenes": 40, "words": 1200, "mean_turns": 9.25},
        {"scenes": 30, "words": 900, "mean_turns": 10.0},
    )
    text = text_of(build(dataset_stats={"all": {**all_, "longest": 400}, "by_kind": {"written": some}})[0])
    assert "Kind Scenes Words Mean turns written 30 900 10.0 all 40 1 200 9.2" in text
    assert "Besides: longest 400." in text


def test_training_without_held_out_dialogues_is_not_judged():
    html, data = build(train_summary={**SUMMARY, "base_loss": None, "epochs": [], "chosen_epoch": None})
    assert "That cannot be said here: no dialogue was held out to measure it by." in text_of(html)
    assert data["training"]["held_out_after"] is None


def test_scores_stand_beside_the_number_of_unscored_verdicts():
    html, data = build()
    assert data["scores"]["means"] == {
        "memorization": {
            "trained": {"mean": 5.5, "scored": 2, "unscored": 0},
            "base": {"mean": None, "scored": 0, "unscored": 1},
        },
        "values": {
            "trained": {"mean": None, "scored": 0, "unscored": 1},
            "base": {"mean": 1.0, "scored": 1, "unscored": 0},
        },
    }
    assert data["scores"]["unscored"] == {"cut off": 1, "not JSON": 1}
    assert "memorization 5.50 2 scored, 0 unscored – 0 scored, 1 unscored" in text_of(html)


def test_the_embedded_judge_is_said_to_be_no_evidence():
    assert (
        "These scores are not evidence. The judge was embedded/tiny, a model of 135 million parameters"
        in text_of(build()[0])
    )


def test_another_judge_is_named_without_that_statement():
    text = text_of(build(scores=[score("trained", "values", 5, judge="openai/judge")])[0])
    assert "not evidence" not in text
    assert "The judge was openai/judge. These are means without intervals" in text


def test_no_scores_are_said_to_be_none():
    text = text_of(build(scores=[])[0])
    assert "No judge was asked, so nothing is said here about how good the answers are." in text


def test_what_was_not_measured_is_not_shown_as_zero():
    nothing = dict.fromkeys(metrics.METRICS)
    text = text_of(build(metrics={"trained": nothing}, single=[], turns=[])[0])
    assert text.count("not measurable") == len(metrics.METRICS)


def test_ten_answers_stand_side_by_side_and_three_of_them_are_traps():
    html, data = build()
    shown = data["answers_shown"]
    assert len(shown) == 10
    assert [question for question in shown if int(question[1:]) > 10] == shown[-3:]
    assert html.count('<article class="qa">') == 10
    assert report.choose(SINGLE[::-1]) == shown


def test_fewer_questions_than_ten_are_all_shown():
    few = [record for record in SINGLE if record["question"] in {"q1", "q11", "q12", "q13", "q14"}]
    assert sorted(report.choose(few)) == ["q1", "q11", "q12", "q13", "q14"]
    assert "Five answers, side by side" in text_of(build(single=few)[0])


def test_marks_and_scripted_questions_are_shown():
    text = text_of(build()[0])
    assert "cut-off" in text
    assert (
        "In 2 of 2 turns its own questions failed, and a scripted one was asked instead; those are marked."
        in text
    )
    assert "(no words)" in text


def test_the_yield_is_told_with_the_reasons_of_rejection():
    text = text_of(build()[0])
    assert "scenes 10 10 50 20 % copied 37 , too-short 3" in text
    assert "12 of 30 rejected replies, one of each rule in turn." in text


def test_the_spec_and_the_digests_are_part_of_it():
    html, data = build()
    assert html_module.escape(json.dumps(SPEC, indent=2), quote=True).replace("&quot;", "&#34;") in html
    assert f"stages.profile {'ab' * 32}" in text_of(html)
    assert data["provenance"] == {"charforge": "0.1.0", "stages": {"profile": "ab" * 32}}


def test_a_report_of_nothing_still_stands():
    html, data = build(**EMPTY)
    text = text_of(html)
    assert "No single questions were asked." in text
    assert "Nobody was interviewed." in text
    assert data["contestants"] == []
    Tags(html)


def test_it_knows_nobody_by_name():
    assert "beethoven" not in build()[0].lower()


# --- what it is ------------------------------------------------------------------------------------------------------


def test_equal_records_give_equal_bytes():
    assert build() == build()
    json.dumps(build()[1], allow_nan=False)


def test_text_of_models_is_data_wherever_it_stands():
    single = [{**record, "answer": NASTY, "thoughts": [NASTY], "text": NASTY} for record in SINGLE]
    talks = [
        {**record, "subject": NASTY, "turns": [{**t, "content": NASTY} for t in record["turns"]]}
        for record in TURNS
    ]
    html, _ = build(
        single=single,
        turns=talks,
        scores=[
            {**one, "verdict": NASTY, "unscored": NASTY if one["score"] is None else None} for one in SCORES
        ],
        rejected=[{"id": NASTY, "rule": NASTY, "detail": NASTY, "text": NASTY, "call": "c"}],
        spec={**SPEC, "name": NASTY, "short_name": NASTY},
        provenance={NASTY: NASTY},
        yields={NASTY: {"asked": 1, "accepted": 0, "wanted": 1, "rejected": {NASTY: 1}}},
        samples=[
            {
                "id": NASTY,
                "kind": NASTY,
                "title": NASTY,
                "background": NASTY,
                "location": NASTY,
                "paragraphs": [NASTY],
                "turns": [{"role": NASTY, "action": "speaking", "content": NASTY}],
            }
        ],
    )
    tags = Tags(html)
    assert {tag for tag, _ in tags.found} & {
        "script",
        "img",
        "iframe",
        "link",
        "object",
        "base",
        "form",
    } == set()
    assert not [name for _, attributes in tags.found for name in attributes if name.startswith("on")]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    assert "{{ 7*7 }}" in html_module.unescape(html)


def test_the_page_asks_nobody_for_anything():
    html, _ = build()
    tags = Tags(html)
    assert [a for _, a in tags.found for name in a if name in {"src", "srcset", "action", "style"}] == []
    assert all(a["href"].startswith("#") for _, a in tags.found if "href" in a)
    assert "@import" not in html
    assert "url(" not in html


def test_the_policy_allows_this_style_sheet_and_nothing_else():
    html, _ = build()
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = next(
        a["content"] for tag, a in Tags(html).found if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_the_page_is_well_formed_and_its_links_lead_somewhere():
    html, _ = build()
    tags = Tags(html)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    targets = {a["href"][1:] for _, a in tags.found if a.get("href", "").startswith("#")}
    labels = {name for _, a in tags.found for name in a.get("aria-labelledby", "").split()}
    assert targets | labels <= set(tags.ids)


def test_lone_surrogates_do_not_stop_a_report():
    single = [{**record, "answer": "a\ud800b"} for record in SINGLE]
    assert "ab" in build(single=single)[0].encode().decode()


# --- plots -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 5, 10]),
        (1.43, 1.72, [1.4, 1.5, 1.6, 1.7, 1.8]),
        (0, 0.003, [0, 0.001, 0.002, 0.003]),
        (-3, 3, [-4, -2, 0, 2, 4]),
    ],
)
def test_ticks_are_round_numbers_around_the_data(low, high, expected):
    assert plots.ticks(low, high, 4) == expected


def test_ticks_of_a_single_value_still_make_an_axis():
    assert plots.ticks(1.5, 1.5)[0] < 1.5 < plots.ticks(1.5, 1.5)[-1]


def test_an_axis_needs_finite_ends():
    with pytest.raises(ValueError, match=r"^an axis needs finite ends$"):
        plots.ticks(0, float("nan"))


def test_a_plot_leaves_out_what_is_not_finite_and_is_empty_without_points():
    series = plots.Series("loss", "c0", ((0.0, 1.0), (1.0, float("nan")), (2.0, 2.0)), dots=True)
    svg = plots.line_plot("x", [series], title="t", description="d", x_label="x", y_label="y")
    assert svg.count("<circle") == 2
    assert "nan" not in svg
    assert plots.line_plot("x", [], title="t", description="d", x_label="x", y_label="y") == ""


def test_a_dot_plot_has_no_dot_for_what_was_not_scored():
    rows = [plots.Row("values", (("Anna", "c0", 5.0), ("base", "c1", None)))]
    svg = plots.dot_plot("y", rows, title="<t>", description="d", low=1, high=7, marks=range(1, 8))
    assert svg.count("<circle") == 1
    assert "&lt;t&gt;" in svg


def test_a_smoothed_line_keeps_its_steps_and_its_mean_of_a_constant():
    line = tuple((float(n), 2.0) for n in range(9))
    assert plots.smoothed(line, 5) == line


def test_cleaning_is_idempotent_and_keeps_what_scripts_need():
    text = "a\x00b\x1b[0m\u202ec\u200dd\ne\tf\r\ng\rh"
    assert page.clean(text) == "ab[0mc\u200dd\ne\tf\ng\nh"
    assert page.clean(page.clean(text)) == page.clean(text)
