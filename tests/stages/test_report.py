"""The report says what was measured, shows words untouched and harmless, and is the same for the same records."""

from __future__ import annotations

import base64
import hashlib
import html as html_module
import json
import re
from html.parser import HTMLParser

from charforge import intervals, metrics
from charforge.report import answers as shown_answers
from charforge.report import page
from charforge.stages import report

SPEC = {
    "charforge": 1,
    "id": "anna",
    "name": "Anna Ley",
    "short_name": "Anna",
    "portrays": None,
    "notice": None,
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


SCENE = {
    "id": "scene/p1/0",
    "type": "chat",
    "location": "The lamp room",
    "background": "A storm comes up.",
    "paragraph": "p1",
    "draw": 0,
    "n": 0,
}
DIALOGUE = {
    "id": "dialogue/p1/0",
    "kind": "generated",
    "scene": "scene/p1/0",
    "paragraphs": [],
    "type": "chat",
    "location": "The lamp room",
    "background": "The oil runs low.",
    "draw": 0,
    "turns": [{"role": "Anna", "action": "speaking", "content": "I kept the lamp alight, question or none."}],
}
SAMPLES = {
    "dialogue/p1/0": "Anna (speaking): I kept the lamp alight, question or none.",
    "released/7": "Anna (speaking): Herring and potatoes, every Friday.",
}
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
        "kind": "single",
        "question": answer,
        "topic": "past",
        "dimension": dimension,
        "repeat": 0,
        "score": value,
        "unscored": unscored,
        "verdict": '{"reason": "Knows the lamp.", "score": 5}',
        "judge": judge,
        "evidence": [{"id": "p1", "number": 1}],
        "cites": [1],
    }


SCORES = [
    score("trained", "memorization", 5),
    score("trained", "memorization", 6, answer="q2"),
    score("trained", "values", None, "cut off"),
    score("base", "memorization", None, "not JSON"),
    score("base", "values", 1),
]
CONTESTANTS = [
    {"name": "trained", "kind": "trained", "model": "local/anna", "style": "character", "reference": True},
    {"name": "base", "kind": "base", "model": "local/base", "style": "chat", "reference": False},
]
PAIRS = [
    {
        "id": "single/q1/trained/base/openai/judge/0",
        "kind": "single",
        "question": "q1",
        "topic": "past",
        "one": "trained",
        "other": "base",
        "judge": "openai/judge",
        "repeat": 0,
        "first": "one",
        "second": "other",
        "winner": "tie",
        "unscored": [],
        "words": [5, 9],
        "verdicts": ["first", "first"],
        "evidence": [],
        "cites": [[], []],
    }
]


def exam(passed, judge="embedded/tiny"):
    if passed is None:
        return {"judges": {judge: {"passed": None, "dimensions": {}, "means": {}}}}
    told = {"passed": passed, "separated": 3, "pairs": 16, "unscored": 2, "needed": 13}
    means = {"right": {"values": 6.5}, "empty": {"values": None}}
    return {"judges": {judge: {"passed": passed, "dimensions": {"values": told}, "means": means}}}


def statistics(scores=SCORES, examined=None, **more):
    return intervals.summarise(
        **{
            "contestants": CONTESTANTS,
            "measures": [],
            "metrics_units": {},
            "scores": scores,
            "pairs": [],
            "exam": examined or {},
            "dimensions": ["memorization", "values"],
        }
        | more
    )


def graded(judge="openai/judge", **scores):
    """Return grades of twelve questions, by contestant a list of grades that is gone through again and again."""
    return [
        score(name, "values", several[number % len(several)], judge=judge, answer=f"q{number}")
        for name, several in scores.items()
        for number in range(12)
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
        "metrics": {name: dict.fromkeys(metrics.METRICS, 0.25) for name in ("trained", "base")},
        "contestants": CONTESTANTS,
        "measures": [],
        "statistics": statistics(examined=exam(passed=False)),
        "exam": exam(passed=False),
        "pairs": PAIRS,
        "set_aside": [],
        "sft": [
            {"prompt": "", "output": text, "kind": "dialogue", "source": {"id": source, "part": 1}}
            for source, text in SAMPLES.items()
        ],
        "scenes": [SCENE],
        "dialogues": [DIALOGUE],
        "usage": {},
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
    "contestants": [],
    "measures": [],
    "statistics": {},
    "exam": {},
    "pairs": [],
    "probes": [],
    "set_aside": [],
    "sft": [],
    "scenes": [],
    "dialogues": [],
    "usage": {},
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
    text = text_of(build()[0])
    assert re.search(r"memorization 5\.50 [\d.]+ to [\d.]+ 2 scored 0 unscored – 0 scored 1 unscored", text)
    assert "Why verdicts went unscored: cut off (1), not JSON (1)." in text


def test_scores_of_a_judge_that_failed_its_exam_are_said_to_be_not_usable():
    html, data = build()
    text = text_of(html)
    assert data["verdict"]["state"] == "unknown"
    assert (
        "It cannot be told. The judge, embedded/tiny, failed its exam: it cannot tell planted good answers from planted bad "
        "ones. These scores are not usable." in text
    )
    assert text.count("not usable: no judge passed its exam") == 1
    assert "Exam of embedded/tiny: failed" in text
    assert (
        "the right character 6.50 says nothing – Pairs told apart 3 of 16 13 needed Unscored 2 Result failed"
        in text
    )


def test_a_judge_that_was_not_examined_is_said_not_to_have_been():
    text = text_of(build(exam=exam(None), statistics=statistics(examined=exam(None)))[0])
    assert "No judge was examined, so nobody knows whether the scores can tell good answers from bad." in text
    assert "Exam of embedded/tiny: not taken" in text


def judged(scores, **changed):
    passed = exam(passed=True, judge="openai/judge")
    return build(scores=scores, exam=passed, statistics=statistics(scores, passed), **changed)


def test_a_difference_that_is_decided_is_bold_and_said_at_the_top():
    html, data = judged(graded(trained=[6, 7], base=[2, 3]))
    assert data["verdict"]["state"] == "yes"
    assert "Yes. The trained Anna was judged better than Base model, prompted." in text_of(html)
    assert "<b>+4.00</b>" in html
    assert "Judged by openai/judge, which passed the exam below." in text_of(html)


def test_nothing_is_bold_where_the_interval_covers_zero():
    html, data = judged(graded(trained=[2, 6], base=[6, 2]))
    assert data["verdict"]["state"] == "unknown"
    assert "the interval of the judged difference covers zero" in text_of(html)
    assert not re.search(r"<b>[+−±]", html)


def test_a_judge_that_failed_makes_nothing_bold():
    scores = graded(trained=[6, 7], base=[2, 3])
    failed = exam(passed=False, judge="openai/judge")
    html, _ = build(scores=scores, exam=failed, statistics=statistics(scores, failed))
    assert "+4.00" in html
    assert not re.search(r"<b>[+−±]", html)


def test_no_scores_are_said_to_be_none():
    html, data = build(scores=[], exam={}, statistics=statistics([]), pairs=[])
    assert "No judge was asked, so nothing is said here about how good the answers are." in text_of(html)
    assert data["verdict"]["answer"].startswith("It cannot be told.")


def test_pairs_show_both_orders():
    html, _ = build(statistics=statistics(pairs=PAIRS, examined=exam(passed=True, judge="openai/judge")))
    text = text_of(html)
    assert "Base model, prompted 0 1 1 by disagreement 0 0 50 %" in text.replace("\u202f", " ").replace(
        "■", ""
    )
    assert (
        "Shown in this order: Anna, trained (first) ; in the other order: Base model, prompted (first) ."
        in text
    )


def test_a_score_leads_to_its_answer_and_to_what_the_judge_was_shown():
    html, _ = build()
    tags = Tags(html)
    links = {a["href"][1:] for tag, a in tags.found if tag == "a"}
    answer = shown_answers.anchor("answer", "trained/q1")
    assert answer in links
    assert answer in tags.ids
    assert shown_answers.anchor("paragraph", "p1") in links
    assert "Knows the lamp." in html


def test_an_answer_leads_to_the_nearest_sample_its_dialogue_its_scene_and_its_paragraph():
    html, _ = build()
    text = text_of(html)
    assert "Nearest training samples, by words: The oil runs low." in text
    assert (
        "I kept the lamp alight, question or none. dialogue/p1/0, from the scene scene/p1/0 (chat): A storm comes up.. "
        "After paragraph 1" in text
    )
    assert "no proof that a sample caused an answer" in text
    assert "Herring" not in html


def test_who_was_not_trained_has_no_near_samples():
    nobody = [one | {"kind": "prompted"} for one in CONTESTANTS]
    assert "Nearest training samples" not in build(contestants=nobody)[0]


def test_questions_that_were_set_aside_are_named_with_their_sample():
    aside = [
        {
            "id": "x",
            "kind": "single",
            "text": "What do you eat?",
            "rule": "same words",
            "sample": "released/7",
            "detail": "herring",
        }
    ]
    text = text_of(build(set_aside=aside)[0])
    assert "What do you eat? same words: herring; released/7" in text
    assert "Herring and potatoes, every Friday." in text


def test_cost_is_shown_where_it_is_known():
    usage = {
        "scenes": {
            "openai/new": {
                "calls": 4,
                "prompt_tokens": 900,
                "completion_tokens": 80,
                "cost": 0.0,
                "unpriced": 4,
            }
        },
        "scores": {"openai/judge": {"calls": 1200, "prompt_tokens": 9, "completion_tokens": 8, "cost": 1.5}},
    }
    text = text_of(build(usage=usage)[0]).replace("\u202f", " ")
    assert (
        "scenes openai/new 4 900 80 unknown scores openai/judge 1 200 9 8 $1.50 all $1.50 and 4 calls of unknown price"
        in text
    )


def test_an_evaluation_without_training_has_no_section_on_it():
    imported = [
        {"name": name, "kind": "imported", "model": None, "style": None, "reference": name == "sft"}
        for name in ("sft", "alpaca-7b")
    ]
    single = answers(**{"sft": "I kept the lamp", "alpaca-7b": "As an AI"})
    html, data = build(**{**EMPTY, "contestants": imported, "single": single})
    text = text_of(html)
    assert "Nothing was trained here." in text
    assert "Was Anna trained?" not in text
    assert 'href="#trained"' not in html
    assert "What went into" not in text
    assert data["training"] is None
    assert data["contestants"] == ["sft", "alpaca-7b"]
    assert "Is sft better than the others?" in text


def test_eight_contestants_differ_in_shape_as_well_as_in_colour():
    names = [f"model-{number}" for number in range(8)]
    several = [
        {"name": name, "kind": "prompted", "model": name, "style": "chat", "reference": name == "model-5"}
        for name in names
    ]
    html, data = build(
        contestants=several,
        single=answers(**dict.fromkeys(names, "So")),
        turns=[],
        metrics={},
        scores=[],
        pairs=[],
        statistics={},
        exam={},
    )
    assert data["contestants"][0] == "model-5"
    shapes = set(re.findall(r'<i class="m (c\d)" aria-hidden="true">(.)', html)) - {("c0", "●")}
    assert len({css for css, _ in shapes}) == len({glyph for _, glyph in shapes}) == 7


def test_what_was_not_measured_is_not_shown_as_zero():
    nothing = dict.fromkeys(metrics.METRICS)
    text = text_of(build(metrics={"trained": nothing}, contestants=CONTESTANTS[:1], single=[], turns=[])[0])
    assert text.count("not measurable") == len(metrics.METRICS)


def test_ten_answers_stand_side_by_side_and_three_of_them_are_traps():
    html, data = build()
    shown = data["answers_shown"]
    assert len(shown) == 10
    assert [question for question in shown if int(question[1:]) > 10] == shown[-3:]
    assert html.count('<article class="qa">') == 10
    assert shown_answers.choose(SINGLE[::-1]) == shown


def test_fewer_questions_than_ten_are_all_shown():
    few = [record for record in SINGLE if record["question"] in {"q1", "q11", "q12", "q13", "q14"}]
    assert sorted(shown_answers.choose(few)) == ["q1", "q11", "q12", "q13", "q14"]
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


def test_of_a_real_person_it_is_said_that_the_answers_are_not_theirs():
    assert 'class="small notice"' not in build()[0]
    html, _ = build(spec={**SPEC, "portrays": "living", "notice": "<b>No</b> consent."})
    assert (
        '<p class="small notice">Anna Ley is a real and living person. None of the answers on this page is '
        "Anna Ley&#39;s own. &lt;b&gt;No&lt;/b&gt; consent.</p>"
    ) in html


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


def test_cleaning_is_idempotent_and_keeps_what_scripts_need():
    text = "a\x00b\x1b[0m\u202ec\u200dd\ne\tf\r\ng\rh"
    assert page.clean(text) == "ab[0mc\u200dd\ne\tf\ng\nh"
    assert page.clean(page.clean(text)) == page.clean(text)
