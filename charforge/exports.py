"""What goes with exported weights and data: model cards, an Ollama Modelfile, a chat template. Facts in, text out.

Knows no store, no file and no model. Facts (`Facts`) are plain JSON, written beside each card as charforge.json. Names, licences and
sources in them are strangers' text: in Markdown they go through `plain`, in front matter through a YAML writer, in code through
a literal of the language, so that they say what they say and do nothing.
"""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import yaml

from charforge.dialogue import EOT, cue
from charforge.notice import about
from charforge.stages.interviews import INTERVIEWER, LOCATION, status
from charforge.templates import render

Facts = Mapping[str, Any]

KINDS = ("hf", "lora", "merged", "gguf", "delta", "dataset")

QUESTION = "Good evening. Who are you?"
"""What the cards' examples ask."""

_MARKUP = set("\\`*_{}[]<>#|!&~$")
_HUB_LICENCES = {
    "apache-2.0", "mit", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "gfdl", "unlicense", "bsd-3-clause", "llama2", "llama3", "llama3.1", "llama3.2", "gemma",
}  # fmt: skip
"""Of the hub's names for licences, those that a profile or a base model is likely to have; anything else is `other` there."""

_RELATIONS = {
    "hf": "finetune",
    "merged": "finetune",
    "lora": "adapter",
    "gguf": "quantized",
    "delta": "finetune",
}
_LIBRARIES = {"lora": "peft", "gguf": "gguf"}
_WHAT = {
    "hf": "Whole weights, in Hugging Face's layout, as training left them.",
    "merged": "A LoRA adapter merged into its base model: whole weights, in Hugging Face's layout.",
    "lora": "A LoRA adapter: it needs its base model. One row of the embedding, that of the added token `<|eot|>`, comes with it.",
    "gguf": "For llama.cpp, Ollama and whatever else reads GGUF.",
    "delta": (
        "What training added to the base model, weight by weight, in the format of FastChat's `make_delta`: it needs the base model. "
        "Its licence then goes with the base model, which is not in here."
    ),
}
_MASKS = {
    "character": "Loss fell on {name}'s own turns only, thoughts included; what others say was read and not learned.",
    "character_speech": "Loss fell on what {name} says aloud only; thoughts and others' turns were read and not learned.",
    "completion": "Loss fell on all turns, those of the others included, as in the paper.",
}


# -- text that comes from strangers ----------------------------------------------------------------------------------


def plain(text: Any) -> str:
    """Return text as Markdown that shows exactly this text, on one line: no markup, no HTML, no control characters."""
    return "".join(f"\\{c}" if c in _MARKUP else c for c in _one_line(text))


def _one_line(text: Any) -> str:
    return " ".join(_visible(str(text)).split())


def _visible(text: str) -> str:
    """Return text without control characters, terminal codes' escapes and text direction overrides; white space stays."""
    return "".join(c for c in text if c.isspace() or unicodedata.category(c) not in {"Cc", "Cf", "Cs"})


def fence(code: str, language: str) -> str:
    """Return a fenced code block whose fence is longer than any in the code; nothing in it is invisible."""
    code = _visible(code)
    longest = max(map(len, re.findall("`+", code)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{code.rstrip()}\n{marks}"


def _front_matter(fields: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in fields.items() if value not in (None, [], "")}
    return "---\n" + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=1000) + "---\n\n"


def _licence(text: str | None) -> str:
    """Return the hub's name for a licence."""
    name = (text or "").strip().lower()
    return name if name in _HUB_LICENCES else "other"


# -- cards -----------------------------------------------------------------------------------------------------------


def model_card(facts: Facts) -> str:
    """Return README.md of an exported model: front matter for the hub, then what a reader has to know."""
    kind, base, train, summary = facts["kind"], facts["base"], facts["train"], facts["summary"]
    front = _front_matter(
        {
            "license": _licence(base["licence"]),
            "license_name": None if _licence(base["licence"]) != "other" else "see-base-model-and-profile",
            "language": ["en"],
            "base_model": base["hub"],
            "base_model_relation": _RELATIONS[kind] if base["hub"] else None,
            "library_name": _LIBRARIES.get(kind, "transformers"),
            "pipeline_tag": "text-generation",
            "tags": ["charforge", "character", "role-play", *(["lora"] if kind == "lora" else [])],
        }
    )
    kept: dict[str, Any] = next(
        (e for e in summary.get("epochs", ()) if e["epoch"] == summary.get("chosen_epoch")), {}
    )
    usage = {"hf": _use_folder, "merged": _use_folder, "lora": _use_adapter, "gguf": _use_gguf}
    return front + _render(
        "model",
        facts,
        kind=kind,
        what=_WHAT["merged" if kind == "hf" and facts["method"] != "full" else kind],
        usage=usage.get(kind, _use_delta)(facts),
        cue=cue(facts["character"]["short_name"]),
        base=plain(base["name"]),
        base_note=plain(base["note"] or ""),
        base_licence=plain(base["licence"] or "see the base model's own page"),
        judge=plain(facts["judge"]),
        loss_before=_number(summary.get("base_loss")),
        loss_after=_number(kept.get("held_out_loss")),
        held_out=len(summary.get("held_out", ())),
        epoch=summary.get("chosen_epoch"),
        mask=_MASKS.get(train.get("loss", ""), "").format(name=plain(facts["character"]["short_name"])),
        settings=[(plain(key.replace("_", " ")), plain(_value(value))) for key, value in _settings(facts)],
        quantised=_files(facts.get("files", {})),
        size=_size_note(summary.get("all_parameters") or summary.get("parameters")),
    )


def dataset_card(facts: Facts) -> str:
    """Return README.md of exported training data, with the configuration by which `load_dataset` finds it."""
    licence = facts["profile"]["licence"]
    front = _front_matter(
        {
            "license": _licence(licence),
            "license_name": None if _licence(licence) != "other" else "see-profile",
            "language": ["en"],
            "pretty_name": f"{facts['character']['name']}: dialogues",
            "task_categories": ["text-generation"],
            "tags": ["charforge", "character", "role-play", "synthetic"],
            "configs": [
                {"config_name": "default", "data_files": [{"split": "train", "path": "sft.jsonl"}]},
            ],
        }
    )
    code = 'from datasets import load_dataset\n\nrows = load_dataset("path/to/this/folder", split="train")'
    return front + _render("dataset", facts, usage=fence(code, "python"))


def _render(template: str, facts: Facts, **more: Any) -> str:
    person, profile, stats = facts["character"], facts["profile"], facts["data"]
    counts = stats.get("all", {})
    name = f"cards/{template}.md.j2"
    source = resources.files("charforge").joinpath(name).read_text(encoding="utf-8")
    return (
        render(
            source,
            name,
            version=facts["charforge"],
            name=plain(person["name"]),
            short_name=plain(person["short_name"]),
            notice=plain(about(person["name"], person["portrays"], person["notice"])),
            id=facts["id"],
            knows_until=plain(person["knows_until"]),
            never=", ".join(plain(each) for each in person["never"]),
            paragraphs=profile["paragraphs"],
            profile_licence=plain(profile["licence"]),
            profile_source=plain(profile["source"]),
            generator=plain(facts["generator"]),
            written=counts.get("written", 0),
            scenes=counts.get("scenes", 0),
            data=[(plain(label), plain(value)) for label, value in _counts(stats)],
            stages=list(_stages(facts["stages"])),
            reproduce=fence(_reproduce(facts), "sh"),
            **more,
        ).rstrip()
        + "\n"
    )


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _counts(stats: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    rows = {**stats.get("by_kind", {}), "all": stats.get("all", {})}
    for kind, table in rows.items():
        told = ((key, table.get(key)) for key in ("scenes", "samples", "words", "mean_turns"))
        figures = [f"{key.replace('_', ' ')} {value:,}" for key, value in told if value is not None]
        if figures:
            yield f"data: {kind}", ", ".join(figures)


def _settings(facts: Facts) -> Iterable[tuple[str, Any]]:
    summary = facts["summary"]
    yield "method", facts["method"]
    for key, value in sorted(facts["train"].items()):
        if key == "method" or (key == "lora" and facts["method"] == "full"):
            continue
        yield key, value
    for key in ("steps", "training_samples", "tokens", "trained_tokens", "parameters", "trained_parameters"):
        if key in summary:
            yield key, f"{summary[key]:,}"


def _stages(stages: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    for name, found in stages.items():
        if found is None:
            yield name, "gone from the store", ""
        else:
            outputs = ", ".join(
                f"`{output}` `{digest}`" for output, digest in sorted(found["outputs"].items())
            )
            yield name, f"`{found['action']}`", outputs


def _files(files: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            f"`{name}`",
            file["type"],
            f"{file['bytes'] / 1e6:,.1f} MB",
            "not measured" if file.get("perplexity") is None else f"{file['perplexity']:.3f}",
        ]
        for name, file in sorted(files.items())
    ]


def _size_note(parameters: int | None) -> str:
    if parameters is None:
        return "How well it writes depends on its base model."
    if parameters < 1_000_000_000:
        return (
            f"It has {parameters / 1e6:,.0f} million parameters. A model of that size writes poorly: it repeats itself, loses the thread, "
            "and contradicts what it said a moment ago."
        )
    return f"It has {parameters / 1e9:,.1f} billion parameters; how well it writes depends on its base model."


def _reproduce(facts: Facts) -> str:
    words = [facts["id"], *(["--preset", facts["preset"]] if facts["preset"] else [])]
    words += [word for override in facts["overrides"] for word in ("--set", override)]
    lines = [
        f"pip install charforge=={facts['charforge']}",
        shlex.join(["charforge", "build", *words]),
        shlex.join(["charforge", "export", facts["kind"], *words]),
    ]
    # No line of code may begin a second one: an override can hold anything.
    return "\n".join(map(_one_line, lines))


# -- how to use it ---------------------------------------------------------------------------------------------------


def meta_prompt(samples: Iterable[Mapping[str, Any]]) -> str | None:
    """Return what the samples' prompts say before their setting, as most of them say it; None where no prompt has a setting."""
    found = Counter(
        sample["prompt"].split("\n\nLocation: ", 1)[0]
        for sample in samples
        if "\n\nLocation: " in sample["prompt"]
    )
    return found.most_common(1)[0][0] if found else None


def scene(facts: Facts) -> str:
    """Return how a prompt begins: the meta prompt, the setting of the interviews, an empty line."""
    short_name = facts["character"]["short_name"]
    return f"{facts['meta'].strip()}\n\nLocation: {LOCATION}\nStatus: {status(short_name)}\n\n"


def prompt(facts: Facts) -> str:
    """Return a whole prompt that asks QUESTION."""
    asked = f"{cue(INTERVIEWER, 'speaking')} {QUESTION}{EOT}\n"
    return scene(facts) + asked + cue(facts["character"]["short_name"])


def _literal(text: str) -> str:
    """Return Python for a text, a line of text a line of code."""
    lines = text.splitlines(keepends=True)
    return "\n".join(["(", *(f"    {line!r}" for line in lines), ")"])


_GENERATE = """\
ids = tokenizer(prompt, return_tensors="pt")
unused = range(len(tokenizer), model.get_input_embeddings().weight.shape[0])
reply = model.generate(
    **ids,
    max_new_tokens={max_tokens},
    do_sample=True,
    temperature={temperature},
    top_p={top_p},
    repetition_penalty={repetition_penalty},
    eos_token_id=tokenizer.convert_tokens_to_ids("<|eot|>"),
    suppress_tokens=list(unused) or None,
)
print(tokenizer.decode(reply[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))"""


def _asks(facts: Facts) -> str:
    sampling = facts["sampling"]
    return f"prompt = {_literal(prompt(facts))}\n" + _GENERATE.format(
        max_tokens=sampling["max_tokens"],
        temperature=sampling["temperature"],
        top_p=sampling["top_p"],
        repetition_penalty=sampling["repetition_penalty"] or 1.0,
    )


def folder_code(facts: Facts) -> str:
    """Return Python that asks the model in the current folder a question."""
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'folder = "."  # this folder\n'
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        "model = AutoModelForCausalLM.from_pretrained(folder)\n\n" + _asks(facts)
    )


def adapter_code(facts: Facts) -> str:
    """Return Python that puts the adapter in the current folder on its base model and asks a question."""
    base = facts["base"]
    where = repr(base["hub"]) if base["exact"] else '"./base"'
    revision = f", revision={base['revision']!r}" if base["exact"] and base["revision"] else ""
    return (
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'folder = "."  # this folder\n'
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        f"base = AutoModelForCausalLM.from_pretrained({where}{revision})\n"
        "# The tokenizer has one token more than the base model: <|eot|>. Its row is in the adapter.\n"
        "if len(tokenizer) > base.get_input_embeddings().weight.shape[0]:\n"
        "    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)\n"
        "model = PeftModel.from_pretrained(base, folder).eval()\n\n" + _asks(facts)
    )


def gguf_code(facts: Facts, file: str) -> str:
    """Return Python that asks a GGUF file in the current folder a question, through its own chat template."""
    sampling = facts["sampling"]
    return (
        "import xllamacpp\n\n"
        "params = xllamacpp.CommonParams()\n"
        f"params.model.path = {file!r}\n"
        "server = xllamacpp.Server(params)\n"
        "answer = server.handle_chat_completions(\n"
        "    {\n"
        f'        "messages": [{{"role": "user", "content": {QUESTION!r}}}],\n'
        f'        "max_tokens": {sampling["max_tokens"]},\n'
        f'        "temperature": {sampling["temperature"]},\n'
        f'        "repeat_penalty": {sampling["repetition_penalty"] or 1.0},\n'
        "    }\n"
        ")\n"
        'print(answer["choices"][0]["message"]["content"])'
    )


def _use_folder(facts: Facts) -> str:
    return fence(folder_code(facts), "python")


def _use_adapter(facts: Facts) -> str:
    return _base_first(facts) + fence(adapter_code(facts), "python")


def _base_first(facts: Facts) -> str:
    """Return how to get the exact base model where it is no repository of the hub."""
    base = facts["base"]
    if base["exact"]:
        return ""
    if base["job"] is None:
        return f"The base model is {plain(base['name'])}; put its folder beside this one as `base`.\n\n"
    job = json.dumps({"base": base["job"], "out": "base"})
    code = f"echo {shlex.quote(job)} | python -m charforge.models.base"
    return (
        f"Write the exact base model, {plain(base['name'])}, as `./base`:\n\n{fence(code, 'sh')}\n\nThen:\n\n"
    )


def _use_gguf(facts: Facts) -> str:
    file = next(iter(sorted(facts["files"])))
    return (
        "With Ollama:\n\n"
        + fence(f"ollama create {facts['id']} -f Modelfile\nollama run {facts['id']}", "sh")
        + "\n\nWith llama.cpp, which finds the text format and the meta prompt in the file:\n\n"
        + fence(f"llama-cli -m {file}", "sh")
        + "\n\nOr in Python (`pip install xllamacpp`):\n\n"
        + fence(gguf_code(facts, file), "python")
    )


def delta_code(facts: Facts) -> str:
    """Return Python that adds the difference in the current folder to its base model, and asks the sum a question."""
    base = facts["base"]
    where, imports = 'Path("base")', ""
    if base["exact"]:
        imports = "from huggingface_hub import snapshot_download\n"
        where = f"Path(snapshot_download({base['hub']!r}, revision={base['revision']!r}))"
    return (
        f"from pathlib import Path\n\n{imports}from charforge.models import delta\n\n"
        f'delta.apply(Path("."), {where}, Path("model"), print)\n\n'
        + folder_code(facts).replace('folder = "."  # this folder', 'folder = "./model"')
    )


def _use_delta(facts: Facts) -> str:
    return (
        _base_first(facts)
        + fence(delta_code(facts), "python")
        + "\n\nIn a CharForge spec `train: {base_model: {delta: ./this-folder, onto: …}}` does the adding. FastChat's own `apply_delta` does it "
        "too, where the base model has the added token already: `charforge.models.delta.prepare` gives it one."
    )


# -- GGUF's companions -----------------------------------------------------------------------------------------------


def chat_template(facts: Facts) -> str:
    """Return a chat template (Jinja) that writes messages in the text format: user and assistant become speakers.

    A system message takes the place of the meta prompt and its setting.
    """
    opening = _jinja_literal(scene(facts).rstrip("\n"))
    user = cue(INTERVIEWER, "speaking")
    character = cue(facts["character"]["short_name"], "speaking")
    return (
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}{% else %}{{ "
        + opening
        + " }}{% endif %}{{ '\\n\\n' }}"
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}"
        f"{{{{ '{_quoted(user)} ' + (message['content'] | trim) + '{EOT}\\n' }}}}"
        "{% elif message['role'] == 'assistant' %}"
        f"{{{{ '{_quoted(character)} ' + (message['content'] | trim) + '{EOT}\\n' }}}}"
        "{% endif %}{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ '{_quoted(character)}' }}}}{{% endif %}}"
    )


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")


def _jinja_literal(text: str) -> str:
    """Return an expression for a text. A brace stands at a string's end, so that no two make a mark of Jinja's."""
    text = _quoted(text).replace("{", "{' ~ '").replace("}", "' ~ '}")
    return f"('{text}')"


def modelfile(facts: Facts, file: str) -> str:
    """Return an Ollama Modelfile for a GGUF file beside it: text format, meta prompt, stop token, sampling.

    The order in which Ollama hands over messages is kept; a thought is never asked for.
    """
    sampling, character = facts["sampling"], cue(facts["character"]["short_name"], "speaking")
    system = _visible(scene(facts)).strip()
    if '"""' in system or system.endswith('"'):  # it would end there; Ollama knows no escape
        system = system.replace('"', "'")
    # Ollama hands a reply over as it came, its leading space included; other clients take that space off.
    space = '{{ if .Content }}{{ if ne (slice .Content 0 1) " " }} {{ end }}{{ end }}'
    template = (
        (" " if facts["files"][file].get("first_space") else "")
        + "{{ if .System }}{{ .System }}\n\n{{ end }}"
        "{{ range .Messages }}"
        f'{{{{ if eq .Role "user" }}}}{cue(INTERVIEWER, "speaking")}{space}{{{{ .Content }}}}{EOT}\n'
        f'{{{{ else if eq .Role "assistant" }}}}{character}{space}{{{{ .Content }}}}{EOT}\n'
        f"{{{{ end }}}}{{{{ end }}}}{character}"
    )
    lines = [
        f"# {_one_line(facts['character']['name'])}, made with CharForge",
        f"FROM ./{file}",
        f'TEMPLATE """{template}"""',
        f'SYSTEM """{system}"""',
        f'PARAMETER stop "{EOT}"',
        f"PARAMETER temperature {sampling['temperature']}",
        f"PARAMETER top_p {sampling['top_p']}",
    ]
    if sampling["repetition_penalty"]:
        lines.append(f"PARAMETER repeat_penalty {sampling['repetition_penalty']}")
    lines += [
        f"PARAMETER num_predict {sampling['max_tokens']}",
        f"PARAMETER num_ctx {facts['train']['context_length']}",
    ]
    return "\n".join(lines) + "\n"


def texts(facts: Facts, files: Sequence[str] = ()) -> dict[str, str]:
    """Return the text files that go with an export: the card, the facts, and for GGUF `files` a Modelfile."""
    made = {
        "README.md": dataset_card(facts) if facts["kind"] == "dataset" else model_card(facts),
        "charforge.json": json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n",
    }
    if files:
        usual = (name for name in files if facts["files"][name]["type"] == "q8_0")
        made["Modelfile"] = modelfile(facts, next(usual, files[0]))
    return made
