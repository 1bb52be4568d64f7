"""Cards, templates and Modelfiles: what they say, and that strangers' text in them says it and does nothing."""

from __future__ import annotations

import re

import pytest
import yaml
from jinja2.sandbox import SandboxedEnvironment

from charforge import exports

NASTY = 'Eve"""\n---\nlicense: mit\n<script>alert(1)</script> [x](javascript:1) | `a` {{ 7*7 }} {% raw %} # ```\x1b[2J\u202e $x$ \\'


def facts(kind="hf", **changes):
    made = {
        "charforge": "1.2.3",
        "kind": kind,
        "id": "ada",
        "preset": None,
        "overrides": [],
        "method": "full",
        "adapter": False,
        "character": {
            "name": "Ada Example",
            "short_name": "Ada",
            "portrays": None,
            "notice": None,
            "knows_until": "1852-11-27",
            "never": ["radio"],
        },
        "profile": {"licence": "CC0-1.0", "source": "Written for a test.", "paragraphs": 6},
        "base": {
            "name": "org/base",
            "hub": "org/base",
            "revision": "abc",
            "licence": None,
            "note": "revision abc",
            "job": None,
            "exact": True,
        },
        "generator": "openai/gpt",
        "judge": "openai/judge",
        "data": {"all": {"scenes": 1234, "written": 3, "samples": 5, "words": 100, "mean_turns": 4.5}},
        "train": {
            "loss": "character",
            "context_length": 512,
            "epochs": 2,
            "lora": {"rank": 8},
            "method": "full",
        },
        "summary": {
            "base_loss": 3.5,
            "chosen_epoch": 2,
            "epochs": [{"epoch": 1, "held_out_loss": 3.0}, {"epoch": 2, "held_out_loss": 2.5}],
            "held_out": ["a", "b"],
            "parameters": 134_000_000,
        },
        "stages": {"profile": None, "model": {"action": "a" * 64, "outputs": {"weights/": "b" * 64}}},
        "sampling": {"temperature": 0.2, "top_p": 0.95, "repetition_penalty": 1.15, "max_tokens": 64},
        "meta": "You are Ada Example.",
        "files": {
            "ada-q8_0.gguf": {"type": "q8_0", "bytes": 2_000_000, "rounded": 0.0, "perplexity": 12.3456}
        }
        if kind == "gguf"
        else {},
    }
    return made | changes


def front(text):
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


@pytest.mark.parametrize("kind", ["hf", "dataset"])
def test_a_card_says_whom_the_character_is_made_after(kind):
    made, card = facts(kind), exports.dataset_card if kind == "dataset" else exports.model_card
    assert "real person" not in card(made)
    made["character"] |= {"portrays": "historical", "notice": "Only *facts*."}
    assert "** Ada Example was a real person. Only \\*facts\\*. " in card(made)


@pytest.mark.parametrize(
    ("kind", "relation", "library"),
    [
        ("hf", "finetune", "transformers"),
        ("merged", "finetune", "transformers"),
        ("lora", "adapter", "peft"),
        ("gguf", "quantized", "gguf"),
        ("delta", "finetune", "transformers"),
    ],
)
def test_a_model_card_says_what_it_was_made_from(kind, relation, library):
    head, body = front(exports.model_card(facts(kind)))
    assert head["base_model"] == "org/base"
    assert (head["base_model_relation"], head["library_name"]) == (relation, library)
    assert head["license"] == "other"
    for said in (
        "profile | 6 paragraphs; licence: CC0-1.0; source: Written for a test.",
        "openai/gpt, and by people (3 of 1234)",
        "scenes 1,234",
        "**3.500** before training, **2.500** after",
        "2 dialogues\nwere held out; epoch 2 was kept",
        "Loss fell on Ada's own turns only",
        "134 million parameters. A model of that size writes poorly",
        "This is not Ada Example.",
        "nothing after 1852-11-27, and nothing of radio",
        f"| model | `{'a' * 64}` | `weights/` `{'b' * 64}` |",
        "| profile | gone from the store |  |",
        f"charforge export {kind} ada",
    ):
        assert said in body, said
    assert (
        "lora |" not in body
    )  # of a model trained in full, how an adapter would have been is nobody's business


def test_a_base_model_that_is_no_repository_is_not_named_as_one():
    base = {
        "name": "./mine",
        "hub": None,
        "revision": None,
        "licence": None,
        "note": None,
        "job": None,
        "exact": False,
    }
    head, body = front(exports.model_card(facts("lora", base=base)))
    assert "base_model" not in head
    assert "put its folder beside this one as `base`" in body


def test_an_embedded_base_model_comes_with_the_command_that_writes_it():
    base = facts()["base"] | {
        "exact": False,
        "licence": "Apache-2.0",
        "job": {"kind": "embedded", "name": "x"},
    }
    head, body = front(exports.model_card(facts("lora", base=base)))
    assert head["license"] == "apache-2.0"
    assert (
        """echo '{"base": {"kind": "embedded", "name": "x"}, "out": "base"}' | python -m charforge.models.base"""
        in body
    )
    assert 'from_pretrained("./base")' in body


def test_a_model_without_held_out_dialogues_says_so():
    body = exports.model_card(facts(summary={"base_loss": None, "epochs": [], "chosen_epoch": 1}))
    assert "No dialogues were held out" in body


def test_a_dataset_card_can_be_loaded_from():
    head, body = front(exports.dataset_card(facts("dataset")))
    assert head["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "sft.jsonl"}]}
    ]
    assert head["license"] == "cc0-1.0"
    assert "The dialogues are invented" in body


def nasty(kind):
    person = {
        "name": NASTY,
        "short_name": "Ada",
        "portrays": "living",
        "notice": NASTY,
        "knows_until": "1852",
        "never": [NASTY],
    }
    return facts(
        kind,
        character=person,
        profile={"licence": NASTY, "source": NASTY, "paragraphs": 1},
        generator=NASTY,
        judge=NASTY,
        meta=NASTY,
        overrides=[NASTY],
        base=facts()["base"] | {"name": NASTY, "note": NASTY, "licence": NASTY, "hub": NASTY},
    )


@pytest.mark.parametrize("kind", exports.KINDS)
def test_strangers_text_is_text_only(kind):
    text = exports.texts(nasty(kind), ["ada-q8_0.gguf"] if kind == "gguf" else [])["README.md"]
    head, body = front(text)
    assert head["license"] == "other"
    outside = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", body)
    assert "<script" not in outside.replace("\\<script", "")
    assert "[x](" not in outside.replace("\\[x\\](", "")
    assert "\x1b" not in text
    assert "\u202e" not in outside
    # Every line of every table is still a row of as many cells as its head.
    for table in re.findall(r"(?:^\|.*\n)+", outside, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_a_fence_is_longer_than_what_it_holds():
    assert exports.fence("a ```` b", "sh") == "`````sh\na ```` b\n`````"


def chat(made, *messages):
    template = SandboxedEnvironment().from_string(exports.chat_template(made))
    return template.render(messages=messages, add_generation_prompt=True)


@pytest.mark.parametrize("made", [facts("gguf"), nasty("gguf")])
def test_the_chat_template_writes_the_text_format(made):
    asked = {"role": "user", "content": exports.QUESTION}
    assert chat(made, asked) == exports.prompt(made) + "speaking):"
    more = chat(
        made,
        {"role": "system", "content": "Scene."},
        asked,
        {"role": "assistant", "content": " I am Ada."},
        {"role": "user", "content": "And who else?"},
    )
    assert more == (
        f"Scene.\n\nVisitor (speaking): {exports.QUESTION}<|eot|>\nAda (speaking): I am Ada.<|eot|>\n"
        "Visitor (speaking): And who else?<|eot|>\nAda (speaking):"
    )


def test_a_modelfile_says_format_meta_prompt_stop_token_and_sampling():
    assert exports.modelfile(facts("gguf"), "ada-q8_0.gguf") == (
        "# Ada Example, made with CharForge\n"
        "FROM ./ada-q8_0.gguf\n"
        'TEMPLATE """{{ if .System }}{{ .System }}\n\n{{ end }}{{ range .Messages }}'
        '{{ if eq .Role "user" }}Visitor (speaking):{{ if .Content }}{{ if ne (slice .Content 0 1) " " }} {{ end }}{{ end }}'
        "{{ .Content }}<|eot|>\n"
        '{{ else if eq .Role "assistant" }}Ada (speaking):{{ if .Content }}{{ if ne (slice .Content 0 1) " " }} {{ end }}{{ end }}'
        '{{ .Content }}<|eot|>\n{{ end }}{{ end }}Ada (speaking):"""\n'
        'SYSTEM """You are Ada Example.\n\nLocation: A quiet room\n'
        'Status: A visitor has come to Ada, sits down, and asks one question after another."""\n'
        'PARAMETER stop "<|eot|>"\n'
        "PARAMETER temperature 0.2\n"
        "PARAMETER top_p 0.95\n"
        "PARAMETER repeat_penalty 1.15\n"
        "PARAMETER num_predict 64\n"
        "PARAMETER num_ctx 512\n"
    )


def test_a_meta_prompt_cannot_end_the_modelfiles_string():
    text = exports.modelfile(nasty("gguf"), "ada-q8_0.gguf")
    comment, rest = text.split("\n", 1)
    assert comment.startswith("# Eve")
    assert rest.count('"""') == 4
    assert "{{ 7*7 }}" in rest.split('SYSTEM """')[1].split('"""')[0]


def test_the_meta_prompt_is_what_most_samples_say():
    def sample(meta):
        return {"prompt": f"{meta}\n\nLocation: x\nStatus: y\n\n"}

    samples = [sample("a"), sample("b"), sample("b"), {"prompt": "general question"}]
    assert exports.meta_prompt(samples) == "b"
    assert exports.meta_prompt([{"prompt": "general question"}]) is None
