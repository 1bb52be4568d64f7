"""The spec: what a file means, and what a stranger's file cannot do."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charforge import spec
from charforge.checks import ALWAYS, RULES
from charforge.errors import FileProblems
from charforge.safe_yaml import load as load_yaml
from charforge.schema import faults, schema_file
from charforge.sections import Delta, Generated, GeneratedQuestions, Lora, Mix, Prompted, Transcript

ROOT = Path(__file__).parents[1]

MINIMAL = """\
charforge: 1
name: Ludwig van Beethoven
short_name: Beethoven
profile: {file: profiles/eliza.md}
knows:
  until: 1827-03-26
  never: [motor cars, cinema]
interview:
  questions: questions/eliza.yaml
"""


@pytest.fixture
def workspace(tmp_path):
    """A workspace with everything that MINIMAL names."""
    for name in ("profiles/eliza.md", "questions/eliza.yaml", "written/eliza.md"):
        path = tmp_path / "workspace" / "characters" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text\n")
    return tmp_path / "workspace"


def load(workspace, text=MINIMAL, name="eliza.yaml", **options):
    path = workspace / "characters" / name
    path.write_text(text)
    return spec.load(path, workspace, **options)


def refused(workspace, text=MINIMAL, name="eliza.yaml", **options) -> str:
    with pytest.raises(FileProblems) as caught:
        load(workspace, text, name, **options)
    return caught.value.render()


# -- what a file means -------------------------------------------------------------------------------------------


def test_the_laptop_preset_fills_in_what_a_file_leaves_out(workspace):
    found = load(workspace)
    assert (found.id, found.file, found.preset) == ("eliza", "characters/eliza.yaml", "laptop")
    assert found.profile.file == "characters/profiles/eliza.md"
    assert found.interview.questions == "characters/questions/eliza.yaml"
    assert found.written is None
    assert found.knows.never == ("motor cars", "cinema")
    assert found.generator.model == "embedded/smollm2-135m-instruct"
    assert (found.scenes.count, found.protective.count) == (12, 4)
    assert (found.train.method, found.train.keep, found.train.loss) == ("full", "best", "character")
    assert found.interview.baselines == ("base",)


def test_set_wins_over_the_file_and_the_file_over_the_preset(workspace):
    text = MINIMAL + "train: {epochs: 7, seed: 5}\n"
    laptop, smoke = load(workspace, text), load(workspace, text, preset="smoke")
    assert (laptop.train.epochs, laptop.train.context_length) == (7, 1024)
    assert (smoke.train.epochs, smoke.train.context_length, smoke.preset) == (7, 512, "smoke")
    changed = load(workspace, text, overrides=["train.epochs=9", "train.epochs=11", "knows.never=[tea]"])
    assert (changed.train.epochs, changed.train.seed, changed.knows.never) == (11, 5, ("tea",))


def test_the_preset_option_wins_over_the_files_preset(workspace):
    text = MINIMAL + "preset: paper\n"
    assert load(workspace, text).preset == "paper"
    assert load(workspace, text, overrides=["preset=smoke"]).scenes.count == 2
    assert load(workspace, text, overrides=["preset=smoke"], preset="laptop").scenes.count == 12


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.learning_rate=1e-4", "train", "learning_rate", 1e-4),
        ("train.epochs=3.0", "train", "epochs", 3),
        ("generator.temperature=1", "generator", "temperature", 1.0),
        ("judge.limit=null", "judge", "limit", None),
        ("interview.limit_multi=0", "interview", "limit_multi", 0),
        ("interview={turns: 3}", "interview", "turns", 3),
        ("judge.dimensions=[values]", "judge", "dimensions", ("values",)),
        ("interview.thoughts=true", "interview", "thoughts", True),
    ],
)
def test_an_override_is_yaml(workspace, override, section, key, value):
    found = getattr(getattr(load(workspace, overrides=[override]), section), key)
    assert found == value
    assert type(found) is type(value)


def test_an_override_can_take_a_file_away(workspace):
    text = MINIMAL + "written: written/eliza.md\n"
    assert load(workspace, text).written == "characters/written/eliza.md"
    assert load(workspace, text, overrides=["written="]).written is None


def test_the_same_spec_in_another_spelling_resolves_to_the_same_bytes(workspace):
    other = """\
    # a comment
    interview: {"questions": ./questions/../questions/eliza.yaml}
    knows: {never: ["motor cars", 'cinema'], until: "1827-03-26"}
    short_name: >-
        Beethoven
    profile: {file: ../characters/profiles/eliza.md}
    name:   Ludwig van Beethoven
    scenes: {count: 12.0}
    charforge: 1
    """
    first = json.dumps(load(workspace).resolved(), sort_keys=True)
    assert json.dumps(load(workspace, other).resolved(), sort_keys=True) == first


def test_the_resolved_spec_has_every_value_and_no_tuple(workspace):
    resolved = load(workspace, preset="smoke").resolved()
    assert json.loads(json.dumps(resolved)) == resolved
    assert set(resolved) == set(schema_file("spec")["properties"]) | {"id"}
    for section, schema in schema_file("spec")["properties"].items():
        if schema.get("type") == "object":
            assert set(resolved[section]) == set(schema["properties"])
    assert resolved["charforge"] == 1
    assert resolved["profile"] == {"file": "characters/profiles/eliza.md"}


def test_paths_are_the_workspaces_own_however_it_is_reached(workspace, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(workspace)
    load(workspace)
    expected = "characters/profiles/eliza.md"
    assert spec.load(tmp_path / "link/characters/eliza.yaml", workspace).profile.file == expected
    assert spec.load(workspace / "characters/eliza.yaml", tmp_path / "link").profile.file == expected
    monkeypatch.chdir(workspace / "characters")
    assert spec.load(Path("eliza.yaml"), Path("..")).profile.file == expected


def test_a_rule_is_on_off_or_a_limit(workspace):
    text = (
        MINIMAL
        + "checks: {foreign-language: false, near-duplicate: 0.4, copied-paragraph: false, copied-prompt: true}\n"
    )
    found = load(workspace, text)
    assert found.checks.foreign_language is False
    assert (found.checks.near_duplicate, found.checks.copied_paragraph, found.checks.copied_prompt) == (
        0.4,
        0,
        8,
    )
    assert found.resolved()["checks"] == found.checks.rules()
    assert found.checks.rules() == {
        **load(workspace).checks.rules(),
        "foreign-language": False,
        "near-duplicate": 0.4,
        "copied-paragraph": False,
    }


def test_every_rule_that_can_be_switched_off_is_a_rule(workspace):
    assert set(load(workspace).checks.rules()) == set(RULES) - ALWAYS


@pytest.mark.parametrize("until", ["0001-01-01", "-0043-03-15", "0000-02-29", "2000-02-29", "9999-12-31"])
def test_days_before_christ_are_days_too(workspace, until):
    assert load(workspace, overrides=[f"knows.until={until}"]).knows.until == until


@pytest.mark.parametrize(
    "model",
    [
        "openai/gpt-4o-mini",
        "anthropic/claude-sonnet-4-5",
        "ollama/llama3:8b",
        "openrouter/meta-llama/llama-3.1-8b-instruct:free",
        "bedrock/anthropic.claude-3-sonnet-20240229-v1:0",
        "hosted_vllm/meta-llama/Llama-3.1-8B",
        "vertex_ai/gemini-1.5-pro@001",
        "cloudflare/@cf/meta/llama-2-7b-chat-int8",
    ],
)
def test_models_are_named_as_litellm_names_them(workspace, model):
    assert load(workspace, overrides=[f"judge.model={model}"]).judge.model == model


def test_the_character_that_comes_along_loads():
    found = spec.load(ROOT / "characters" / "beethoven.yaml", ROOT)
    assert found.knows.until == "1827-03-26"
    assert (
        (ROOT / "characters" / "beethoven.yaml")
        .read_text()
        .startswith("# yaml-language-server: $schema=../charforge/spec.schema.json\n")
    )


# -- what is trained, and on what --------------------------------------------------------------------------------


@pytest.fixture
def files(workspace):
    """A workspace with things to train on."""
    for name in ("data/x.jsonl", "characters/data/x.jsonl", "characters/models/mine/config.json"):
        path = workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x\n")
    return workspace


def test_a_preset_trains_on_what_the_build_makes_with_adapters_ready(workspace):
    train = load(workspace).train
    assert (train.data, train.mix) == ("built", None)
    assert train.lora == Lora(rank=16, alpha=32, dropout=0.05, target_modules="all-linear", merge=False)
    assert (train.precision, train.gradient_checkpointing, train.packing) == ("auto", "auto", True)


@pytest.mark.parametrize(
    ("named", "loaded"),
    [
        ("meta-llama/Llama-3.1-8B@main", "meta-llama/Llama-3.1-8B@main"),
        ("./models/mine", "./characters/models/mine"),
        ("./models/mine/", "./characters/models/mine"),
        ("../characters/models/../models/mine", "./characters/models/mine"),
        (
            "{delta: a/b-wdiff@v1, onto: ./models/mine}",
            Delta(delta="a/b-wdiff@v1", onto="./characters/models/mine"),
        ),
        (
            "{delta: ../characters/models/mine, onto: a/b}",
            Delta(delta="./characters/models/mine", onto="a/b"),
        ),
    ],
)
def test_a_base_model_is_a_name_a_folder_or_a_difference(files, named, loaded):
    train = load(files, MINIMAL + f"train:\n  base_model: {named}\n").train
    assert train.base_model == loaded


@pytest.mark.parametrize(
    ("named", "loaded"),
    [
        ("./data/x.jsonl", "./characters/data/x.jsonl"),
        ("../data/x.jsonl", "./data/x.jsonl"),
        ("org/set:prompted/x y.json", "org/set:prompted/x y.json"),
        ("org/set@v1.0:x.jsonl", "org/set@v1.0:x.jsonl"),
    ],
)
def test_data_is_built_here_or_released_by_others(files, named, loaded):
    text = MINIMAL + f"train:\n  data: {{prompted: '{named}'}}\n  mix: {{data: '{named}', ratio: 1}}\n"
    found = load(files, text)
    assert (found.train.data, found.train.mix) == (Prompted(prompted=loaded), Mix(data=loaded, ratio=1.0))
    assert found.resolved()["train"]["data"] == {"prompted": loaded}
    assert found.resolved()["train"]["mix"] == {"data": loaded, "ratio": 1.0}
    text = text.replace("prompted:", "generated:", 1)
    assert load(files, text).train.data == Generated(generated=loaded)
    assert load(files, text, overrides=["train.data=built", "train.mix="]).train == load(files).train


def test_the_later_kind_of_data_wins(files):
    text = MINIMAL + "train: {data: {prompted: ./data/x.jsonl}}\n"
    changed = load(files, text, overrides=["train.data.generated=../data/x.jsonl"])
    assert changed.train.data == Generated(generated="./data/x.jsonl")


def test_data_files_that_are_there_are_told_by_their_keys(files):
    text = MINIMAL + "train: {data: {prompted: ./data/x.jsonl}, mix: {data: 'a/b:c.json', ratio: 1}}\n"
    path = files / "characters" / "eliza.yaml"
    path.write_text(text)
    assert spec.examine(path, files).files == {
        "profile.file": "characters/profiles/eliza.md",
        "interview.questions": "characters/questions/eliza.yaml",
        "train.data.prompted": "characters/data/x.jsonl",
    }


def test_released_data_need_nothing_to_be_asked_about(files):
    text = MINIMAL.replace("[motor cars, cinema]", "[]") + "train: {data: {prompted: ./data/x.jsonl}}\n"
    assert load(files, text, preset="paper").knows.never == ()


def test_lists_and_switches_of_training_keep_their_types(workspace):
    overrides = [
        "train.betas=[0, 0.5]",
        "train.lora.target_modules=[q_proj, mlp.up_proj]",
        "train.gradient_checkpointing=true",
        "train.lora.dropout=0",
    ]
    found = load(workspace, overrides=overrides)
    assert repr(found.train.betas) == "(0.0, 0.5)"
    assert found.train.lora.target_modules == ("q_proj", "mlp.up_proj")
    assert found.train.gradient_checkpointing is True
    assert repr(found.train.lora.dropout) == "0.0"
    assert found.resolved()["train"]["betas"] == [0.0, 0.5]
    assert found.resolved()["train"]["lora"]["target_modules"] == ["q_proj", "mlp.up_proj"]


_FOLDER_HINT = "a folder of this workspace begins with ./ or ../; a model of the hub is named org/name"
_REF = "a model's name, a folder such as ./models/mine, or {delta: MODEL, onto: MODEL}"
_FILE = "a file such as ./data/dialogues.jsonl, or one of a data set on the hub such as org/dataset:path/in/it.jsonl"
_DATA = "built, {prompted: FILE} or {generated: FILE}"
_INSIDE = "a spec can name files inside the workspace only"


@pytest.mark.parametrize(
    ("value", "key", "message", "hint"),
    [
        ("base_model: weights", "base_model", f"expected {_REF}, got 'weights'", _FOLDER_HINT),
        ("base_model: models/a/b", "base_model", f"expected {_REF}, got 'models/a/b'", _FOLDER_HINT),
        (
            "base_model: /models/x",
            "base_model",
            f"expected {_REF}, got '/models/x'",
            "a folder is named from the spec's own folder: ./models/mine or ../models/mine",
        ),
        (
            "base_model: 'https://hf.co/a/b'",
            "base_model",
            f"expected {_REF}, got 'https://hf.co/a/b'",
            "models are named, never addressed: weights come from the hub",
        ),
        (
            "base_model: ./models/mime",
            "base_model",
            "no such folder: characters/models/mime",
            "did you mean './models/mine'?",
        ),
        ("base_model: ./data/x.jsonl", "base_model", "characters/data/x.jsonl is no folder", None),
        (
            "base_model: models/mine",
            "base_model",
            "'models/mine' names a model of the hub, and a folder here",
            "write './models/mine' for the folder",
        ),
        ("base_model: ../../x", "base_model", "'../../x' leads out of the workspace", _INSIDE),
        ("base_model: ../.git", "base_model", "'../.git' is hidden: a spec cannot name .git", _INSIDE),
        (
            "base_model: ./models/bad",
            "base_model",
            "'./models/bad/config.json' is a link that leads out of the workspace",
            _INSIDE,
        ),
        (
            "base_model: {delta: a/b}",
            "base_model.onto",
            "this key is missing",
            "add it, for example: onto: ./models/llama-7b",
        ),
        (
            "base_model: {delta: ../../x, onto: embedded/smollm2}",
            "base_model.delta",
            "'../../x' leads out of the workspace",
            _INSIDE,
        ),
        ("data: bult", "data", f"expected {_DATA}, got 'bult'", "did you mean 'built'?"),
        ("data: {promted: ./data/x.jsonl}", "data.promted", "unknown key", "did you mean 'prompted'?"),
        (
            "data: {prompted: ./data/x.jsonl, generated: ./data/x.jsonl}",
            "data",
            f"expected {_DATA}, got keys and values",
            None,
        ),
        (
            "data: {prompted: data/x.jsonl}",
            "data.prompted",
            f"expected {_FILE}, got 'data/x.jsonl'",
            "a file of this workspace begins with ./ or ../",
        ),
        (
            "data: {prompted: ./data/x.txt}",
            "data.prompted",
            f"expected {_FILE}, got './data/x.txt'",
            "the file ends in .jsonl or .json",
        ),
        (
            "data: {prompted: 'org/set:../x.json'}",
            "data.prompted",
            f"expected {_FILE}, got 'org/set:../x.json'",
            "a file of the hub is named org/dataset:path/in/it.jsonl, or org/dataset@revision:path/in/it.jsonl",
        ),
        (
            "data: {prompted: 'https://x.org/x.jsonl'}",
            "data.prompted",
            f"expected {_FILE}, got 'https://x.org/x.jsonl'",
            "files are named, never addressed: ./file.jsonl in the workspace, or org/dataset:path.jsonl on the hub",
        ),
        (
            "data: {generated: ./data/y.jsonl}",
            "data.generated",
            "no such file: characters/data/y.jsonl",
            "files there: x.jsonl",
        ),
        (
            "data: {generated: ../.env.json}",
            "data.generated",
            "'../.env.json' is hidden: a spec cannot name .env.json",
            _INSIDE,
        ),
        (
            "mix: {data: ./data/x.jsonl}",
            "mix.ratio",
            "this key is missing",
            "add it, for example: ratio: 0.25",
        ),
        ("mix: {ratio: 1}", "mix.data", "this key is missing", "add it, for example: data: ./general.jsonl"),
        ("batch size: 4", "'batch size'", "unknown key", "did you mean 'batch_size'?"),
        ("rank: 8", "rank", "unknown key", "did you mean 'train.lora.rank'?"),
        ("lora: {rnk: 8}", "lora.rnk", "unknown key", "did you mean 'rank'?"),
        (
            "lora: {target_modules: []}",
            "lora.target_modules",
            "expected all-linear, or a list of layers' names such as [q_proj, v_proj], got a list of 0",
            None,
        ),
        (
            "lora: {target_modules: [q proj]}",
            "lora.target_modules[0]",
            "expected a layer's name such as q_proj, got 'q proj'",
            None,
        ),
        (
            "betas: [0.9]",
            "betas",
            "expected a list of two numbers such as [0.9, 0.95], got a list of 1",
            None,
        ),
        ("betas: [0.9, 1]", "betas[1]", "expected a number of at least 0, below 1, got 1", None),
        (
            "gradient_checkpointing: yes",
            "gradient_checkpointing",
            "expected one of auto, true, false, got 'yes'",
            "write true",
        ),
        (
            "precision: fp16",
            "precision",
            "expected one of auto, bf16, fp32, got 'fp16'",
            "did you mean 'bf16'?",
        ),
        (
            "keep_checkpoints: 0",
            "keep_checkpoints",
            "expected a whole number between 1 and 1000, got 0",
            None,
        ),
    ],
)
def test_what_is_wrong_with_training_is_told_whole(files, value, key, message, hint):
    (files / "characters/models/bad").mkdir()
    (files / "characters/models/bad/config.json").symlink_to(files.parent / "secret")
    told = refused(files, MINIMAL + f"train:\n  {value}\n").split("\n\n")[0]
    end = f"\nhint: {hint}" if hint else ""
    assert told == f"error: characters/eliza.yaml:11: train.{key}: {message}\n  11 |   {value}{end}"


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("train.mix.ratio=1", "train.mix.data: this key is missing\nhint: name both data and ratio"),
        (
            "train.base_model.onto=a/b",
            "train.base_model.delta: this key is missing\nhint: name both delta and onto",
        ),
    ],
)
def test_half_of_a_pair_is_refused(workspace, override, error):
    assert refused(workspace, overrides=[override]) == f"error: --set {override}: {error}"


_STEP = st.sampled_from(["data", "models/mine", "characters", "inside", "link", "out", ".git", "..", "."])
_PATHS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["./", "./", "./", "../", "../characters/", "", "/", "~/"]),
    st.lists(_STEP, min_size=1, max_size=2).map("/".join),
    st.sampled_from([*[""] * 8, "/", "//", ":", "\n", " "]),
)
_NAMES = st.builds(
    "{}/{}{}{}".format,
    *[st.sampled_from(["org", "set", "x", "a.b", "..", ".x", ""])] * 2,
    st.sampled_from(["", "", "@main", "@v1", "@", "@v1..2"]),
    st.sampled_from(["", ":x.jsonl", ":a/b c.json", ":../x.jsonl", ":/x.jsonl", ":.x.json", ":x"]),
)
_NOISE = st.lists(
    st.sampled_from(
        [".", "..", "/", "./", "x", "@v1", ":", ".jsonl", " ", "\n", "\\", "://", "\u202e", "é", "%2e%2e"]
    ),
    max_size=8,
).map("".join)
_REFERENCES = _PATHS | _PATHS | _NAMES | _NOISE
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[A-Za-z0-9][\w.-]*)?", re.ASCII)


@pytest.fixture(scope="module")
def maze(tmp_path_factory):
    """A workspace of folders, links and hidden things, with a secret outside."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "x.jsonl").write_text("secret")
    root = tmp_path_factory.mktemp("maze")
    for folder in ("characters/data", "characters/models/mine", "characters/.git", ".git", "data"):
        (root / folder).mkdir(parents=True)
        (root / folder / "x.jsonl").write_text("x")
    for name in ("characters/x.jsonl", "characters/profiles/eliza.md", "characters/questions/eliza.yaml"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    (root / "characters/out").symlink_to(outside)
    (root / "characters/inside").symlink_to("data")
    (root / "characters/link").symlink_to("../.git")
    return root


def loaded(root, text):
    path = root / "characters" / "eliza.yaml"
    path.write_text(MINIMAL + text)
    try:
        return spec.load(path, root)
    except FileProblems:
        return None


def assert_inside(root, reference):
    """A reference of a loaded spec is in the workspace, plainly: nothing hidden, no link out, no step back."""
    assert reference.startswith("./")
    assert ".." not in Path(reference).parts
    real = (root / reference).resolve(strict=True)
    assert real.is_relative_to(root.resolve())
    assert not any(part.startswith(".") for part in real.relative_to(root.resolve()).parts)


@settings(max_examples=300, deadline=None)
@given(text=_REFERENCES)
def test_no_base_model_leads_out_of_the_workspace(maze, text):
    named = json.dumps(text)
    found = loaded(maze, f"train: {{base_model: {named}}}\n")
    pair = loaded(maze, f"train: {{base_model: {{delta: {named}, onto: {named}}}}}\n")
    assert (found is None) == (pair is None)
    if found:
        assert pair.train.base_model == Delta(delta=found.train.base_model, onto=found.train.base_model)
        if text.startswith("."):
            assert_inside(maze, found.train.base_model)
            assert (maze / found.train.base_model).is_dir()
        else:
            assert found.train.base_model == text
            assert _HUB.fullmatch(text)


@settings(max_examples=300, deadline=None)
@given(text=_PATHS.map("{}/x.jsonl".format) | _NAMES.map("{}:data/x.json".format) | _REFERENCES)
def test_no_data_file_leads_out_of_the_workspace(maze, text):
    named = json.dumps(text)
    found = loaded(maze, f"train: {{data: {{prompted: {named}}}, mix: {{data: {named}, ratio: 1}}}}\n")
    if found:
        file = found.train.data.prompted
        assert found.train.mix.data == file
        assert file.endswith((".jsonl", ".json"))
        if text.startswith("."):
            assert_inside(maze, file)
            assert (maze / file).is_file()
        else:
            assert file == text
            dataset, _, path = text.partition(":")
            assert _HUB.fullmatch(dataset)
            assert not Path(path).is_absolute()
            assert not any(part.startswith(".") for part in Path(path).parts)


# -- presets and the schema --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", spec.PRESETS)
def test_a_preset_is_valid_by_itself_and_names_every_default(name, workspace):
    values = load_yaml(ROOT / "charforge" / "presets" / f"{name}.yaml", name).value
    assert faults(values, schema_file("spec"), partial=True) == []
    own = {"id", "charforge", "name", "short_name", "preset", "profile", "knows"}
    resolved = load(workspace, preset=name).resolved()
    assert set(values) == set(resolved) - own
    assert set(values["interview"]) == set(resolved["interview"]) - {"questions"}


def test_the_paper_preset_has_the_papers_figures(workspace):
    train = load(workspace, preset="paper").train
    assert (train.epochs, train.learning_rate, train.warmup_ratio, train.weight_decay) == (
        10,
        2e-5,
        0.04,
        0.1,
    )
    assert train.batch_size * train.gradient_accumulation == 64
    assert (train.context_length, train.held_out, train.loss, train.keep) == (
        2048,
        0.02,
        "completion",
        "last",
    )
    assert (train.method, train.precision, train.tf32, train.gradient_checkpointing) == (
        "full",
        "bf16",
        True,
        True,
    )
    assert train.betas == (0.9, 0.999)


def test_one_protective_dialogue_for_each_paragraph_needs_something_to_ask_about(workspace):
    assert load(workspace, preset="paper").protective.count is None
    assert refused(workspace, MINIMAL.replace("[motor cars, cinema]", "[]"), preset="paper") == (
        "error: characters/eliza.yaml:7: knows.never: protective.count is null (one for each paragraph), and there is "
        "nothing here to ask about\n  7 |   never: []\n"
        "hint: name a few things the character cannot know, or set protective.count to 0"
    )


def test_a_smoke_build_is_small_and_accepts_any_yield(workspace):
    found = load(workspace, preset="smoke")
    assert (found.train.max_samples, found.train.epochs, found.judge.limit) == (12, 1, 1)
    assert (found.interview.turns, found.interview.limit_single, found.interview.limit_multi) == (2, 4, 1)
    assert found.scenes.min_yield == found.dialogues.min_yield == found.protective.min_yield == 0


@pytest.mark.parametrize("name", ["spec", "questions"])
def test_the_schemas_are_valid_closed_and_have_words_for_every_union(name):
    schema = schema_file(name)
    jsonschema.Draft202012Validator.check_schema(schema)

    def walk(node):
        if node.get("type") == "object":
            assert node["additionalProperties"] is False
        if "anyOf" in node:
            assert node["x-expected"]
        # '$' alone lets a line break follow in Python, though not in JSON Schema; a line break forges prompts.
        assert node.get("pattern", "$(?!\\n)").endswith("$(?!\\n)")
        for child in (*node.get("properties", {}).values(), *node.get("$defs", {}).values()):
            walk(child)
        if "items" in node:
            walk(node["items"])

    walk(schema)


def test_every_key_of_a_spec_is_described_for_editors():
    def walk(node, path):
        for key, child in node.get("properties", {}).items():
            assert child.get("description"), (*path, key)
            walk(child, (*path, key))

    walk(schema_file("spec"), ())


FULL = {
    "charforge": 1,
    "name": "Ludwig van Beethoven",
    "short_name": "Beethoven",
    "portrays": "historical",
    "notice": "Nobody was asked.",
    "profile": {"file": "profiles/x.md"},
    "knows": {"until": "1827-03-26", "never": ["cars", "jazz"]},
    "written": None,
    "train": {
        "epochs": 3,
        "learning_rate": 1e-4,
        "base_model": {"delta": "a/b@c", "onto": "./x"},
        "data": {"prompted": "./x.jsonl"},
        "mix": {"data": "a/b@c:x/y.jsonl", "ratio": 0.25},
        "method": "full",
        "lora": {"rank": 8, "target_modules": ["q_proj"]},
        "betas": [0.9, 0.95],
        "gradient_checkpointing": "auto",
    },
    "interview": {
        "questions": "q.yaml",
        "baselines": ["base", "openai/x"],
        "thoughts": True,
        "limit_single": None,
    },
    "judge": {"dimensions": ["values"], "model": "a/b", "limit": 3},
}
_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5000),
    st.floats(-2, 3),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.sampled_from(
        [
            "base",
            "full",
            "built",
            "auto",
            "../x",
            "a/b:c.json",
            "./x.jsonl",
            "a/b",
            "https://a/b",
            "x" * 301,
            "1827-03-26",
            "a//b",
            "a/..",
            "local/x",
        ]
    ),
    st.lists(st.sampled_from(["a", "base", "values", 1, ""]), max_size=3),
    st.just({}),
    st.just({"epochs": 0}),
    st.dictionaries(
        st.sampled_from(["delta", "onto", "prompted", "generated", "data", "ratio"]),
        st.sampled_from(["a/b", "./x", "./x.json", 1, None]),
        max_size=3,
    ),
)


def _paths(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _paths(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _paths(child, (*path, index))


@settings(max_examples=200, deadline=None)
@given(
    path=st.sampled_from(list(_paths(FULL))),
    value=_VALUES,
    extra=st.none() | st.sampled_from(["", "epochs", "zz"]),
)
def test_whatever_the_standard_refuses_is_told(path, value, extra):
    document = copy.deepcopy(FULL)
    if path:
        parent = document
        for step in path[:-1]:
            parent = parent[step]
        parent[path[-1]] = value
        if extra is not None and isinstance(parent, dict):
            parent[extra] = value
    else:
        document = value
    standard = jsonschema.Draft202012Validator(schema_file("spec"))
    told = {fault.path for fault in faults(document, schema_file("spec"))}
    for error in standard.iter_errors(document):
        place = tuple(error.absolute_path)
        assert any(path[: len(place)] == place for path in told), error
    assert bool(told) != standard.is_valid(document)


def test_neither_importing_nor_loading_takes_a_heavy_library(workspace):
    load(workspace)
    code = (
        "import sys\nfrom pathlib import Path\nfrom charforge import spec\n"
        "assert not {'yaml', 'jsonschema'} & set(sys.modules)\n"
        f"spec.load(Path({str(workspace / 'characters' / 'eliza.yaml')!r}), Path({str(workspace)!r}))\n"
        "heavy = {'torch', 'transformers', 'litellm', 'jinja2', 'rich', 'hypothesis'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


# -- errors, whole -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("added", "error"),
    [
        (
            "train:\n  epochss: 3\n",
            "error: characters/eliza.yaml:11: train.epochss: unknown key\n  11 |   epochss: 3\nhint: did you mean 'epochs'?",
        ),
        (
            "epochs: 3\n",
            "error: characters/eliza.yaml:10: epochs: unknown key\n  10 | epochs: 3\nhint: did you mean 'train.epochs'?",
        ),
        (
            "scenes: {zzz: 3}\n",
            (
                "error: characters/eliza.yaml:10: scenes.zzz: unknown key\n  10 | scenes: {zzz: 3}\n"
                "hint: expected one of count, attempts, min_yield, per_call"
            ),
        ),
        (
            "checks: {foreign_language: false}\n",
            (
                "error: characters/eliza.yaml:10: checks.foreign_language: unknown key\n"
                "  10 | checks: {foreign_language: false}\nhint: did you mean 'foreign-language'?"
            ),
        ),
        (
            "checks: {format: false}\n",
            (
                "error: characters/eliza.yaml:10: checks.format: unknown key\n  10 | checks: {format: false}\n"
                "hint: expected one of length, character-silent, third-person, assistant-talk, foreign-language, copied-prompt, "
                "copied-paragraph, repetition, near-duplicate, ungrounded, anachronism, no-provocation"
            ),
        ),
        (
            "checks: {near-duplicate: 1.5}\n",
            (
                "error: characters/eliza.yaml:10: checks.near-duplicate: expected a number between 0.05 and 1 or true or false, "
                "got 1.5\n  10 | checks: {near-duplicate: 1.5}"
            ),
        ),
        (
            "checks: {repetition: 2}\n",
            (
                "error: characters/eliza.yaml:10: checks.repetition: expected true or false, got 2\n"
                "  10 | checks: {repetition: 2}"
            ),
        ),
        (
            "train: {max_samples: 0}\n",
            (
                "error: characters/eliza.yaml:10: train.max_samples: expected a whole number of at least 1 or null, got 0\n"
                "  10 | train: {max_samples: 0}"
            ),
        ),
        (
            "protective: {count: all}\n",
            (
                "error: characters/eliza.yaml:10: protective.count: expected a whole number between 0 and 10000 or null, "
                "got 'all'\n  10 | protective: {count: all}"
            ),
        ),
        (
            "train: {method: lorra}\n",
            (
                "error: characters/eliza.yaml:10: train.method: expected one of full, lora, qlora, got 'lorra'\n"
                "  10 | train: {method: lorra}\nhint: did you mean 'lora'?"
            ),
        ),
        (
            "train: {schedule: cosin}\n",
            (
                "error: characters/eliza.yaml:10: train.schedule: expected one of cosine, linear, constant, inverse_sqrt, "
                "warmup_stable_decay, got 'cosin'\n"
                "  10 | train: {schedule: cosin}\nhint: did you mean 'cosine'?"
            ),
        ),
        (
            "train: {epochs: many}\n",
            (
                "error: characters/eliza.yaml:10: train.epochs: expected a whole number between 1 and 1000, got 'many'\n"
                "  10 | train: {epochs: many}"
            ),
        ),
        (
            'train: {epochs: "3"}\n',
            (
                "error: characters/eliza.yaml:10: train.epochs: expected a whole number between 1 and 1000, got '3'\n"
                '  10 | train: {epochs: "3"}\nhint: write the number without quotes'
            ),
        ),
        (
            "train: {epochs: 2.5}\n",
            (
                "error: characters/eliza.yaml:10: train.epochs: expected a whole number between 1 and 1000, got 2.5\n"
                "  10 | train: {epochs: 2.5}"
            ),
        ),
        (
            "train: {learning_rate: 0}\n",
            (
                "error: characters/eliza.yaml:10: train.learning_rate: expected a number above 0, at most 1, got 0\n"
                "  10 | train: {learning_rate: 0}"
            ),
        ),
        (
            "generator: {temperature: 3}\n",
            (
                "error: characters/eliza.yaml:10: generator.temperature: expected a number between 0 and 2, got 3\n"
                "  10 | generator: {temperature: 3}"
            ),
        ),
        (
            "judge: {limit: -1}\n",
            (
                "error: characters/eliza.yaml:10: judge.limit: expected a whole number of at least 0 or null, got -1\n"
                "  10 | judge: {limit: -1}"
            ),
        ),
        (
            "judge: {dimensions: []}\n",
            (
                "error: characters/eliza.yaml:10: judge.dimensions: expected a list of 1 to 5 items, got 0\n"
                "  10 | judge: {dimensions: []}"
            ),
        ),
        (
            "judge: {dimensions: values}\n",
            (
                "error: characters/eliza.yaml:10: judge.dimensions: expected a list of 1 to 5 items, got 'values'\n"
                "  10 | judge: {dimensions: values}\nhint: a list is written [one, two], or one '- item' on each line"
            ),
        ),
        (
            "judge: {dimensions: [values, values]}\n",
            (
                "error: characters/eliza.yaml:10: judge.dimensions[1]: 'values' is there twice\n"
                "  10 | judge: {dimensions: [values, values]}\nhint: keep one of them"
            ),
        ),
        (
            "judge:\n",
            (
                "error: characters/eliza.yaml:10: judge: expected keys and values, got nothing\n"
                "  10 | judge:\nhint: give it a value or delete the line"
            ),
        ),
        (
            "preset: lapto\n",
            (
                "error: characters/eliza.yaml:10: preset: expected one of laptop, smoke, paper, got 'lapto'\n"
                "  10 | preset: lapto\nhint: did you mean 'laptop'?"
            ),
        ),
        (
            "short_name: B\n",
            (
                "error: characters/eliza.yaml:10: short_name: this key is there twice, first on line 3\n"
                "  10 | short_name: B\nhint: keep one of them"
            ),
        ),
        (
            "generator:\n  api_key: sk-live-123\n",
            (
                "error: characters/eliza.yaml:11: generator.api_key: unknown key\n  11 |   api_key: [not shown]\n"
                "hint: keys and endpoints come from the environment, never from a spec"
            ),
        ),
        (
            "judge: {model: 'https://evil.example/v1'}\n",
            (
                "error: characters/eliza.yaml:10: judge.model: expected a model's name such as "
                "embedded/smollm2-135m-instruct or openai/gpt-4o-mini, got 'https://evil.example/v1'\n"
                "  10 | judge: {model: 'https://evil.example/v1'}\n"
                "hint: models are named, never addressed: endpoints come from the environment, never from a spec"
            ),
        ),
        (
            "train: {base_model: embedded/smollm}\n",
            (
                "error: characters/eliza.yaml:10: train.base_model: expected one of embedded/smollm2-135m-instruct, "
                "got 'embedded/smollm'\n  10 | train: {base_model: embedded/smollm}\n"
                "hint: did you mean 'embedded/smollm2-135m-instruct'?"
            ),
        ),
        (
            "dialogues: {min_turns: 20}\n",
            (
                "error: characters/eliza.yaml:10: dialogues.min_turns: expected at most dialogues.max_turns, which is 14, got 20\n"
                "  10 | dialogues: {min_turns: 20}\nhint: set dialogues.max_turns too"
            ),
        ),
        (
            "dialogues: {min_turns: 8, max_turns: 6}\n",
            (
                "error: characters/eliza.yaml:10: dialogues.min_turns: expected at most dialogues.max_turns, which is 6, got 8\n"
                "  10 | dialogues: {min_turns: 8, max_turns: 6}"
            ),
        ),
        (
            "written: written/elisa.md\n",
            (
                "error: characters/eliza.yaml:10: written: no such file: characters/written/elisa.md\n"
                "  10 | written: written/elisa.md\nhint: did you mean 'written/eliza.md'?"
            ),
        ),
        (
            "written: written\n",
            "error: characters/eliza.yaml:10: written: characters/written is not a regular file\n  10 | written: written",
        ),
        (
            "written: https://example.org/x.md\n",
            (
                "error: characters/eliza.yaml:10: written: expected a file's path relative to the spec's folder, written with /, "
                "or null, got 'https://example.org/x.md'\n  10 | written: https://example.org/x.md\n"
                "hint: save the page as a file beside the spec and name that"
            ),
        ),
    ],
)
def test_a_wrong_value_is_told_whole(workspace, added, error):
    assert refused(workspace, MINIMAL + added) == error


def test_missing_keys_are_told_with_an_example(workspace):
    assert refused(workspace, "charforge: 1\nname: Eliza\nknows: {}\n") == (
        "error: characters/eliza.yaml: short_name: this key is missing\nhint: add it, for example: short_name: Beethoven\n\n"
        "error: characters/eliza.yaml: profile: this key is missing\n"
        "hint: add it, for example: profile: {file: profiles/beethoven.md}\n\n"
        "error: characters/eliza.yaml: interview: this key is missing\n"
        "hint: add it, for example: interview: {questions: questions/beethoven.yaml}\n\n"
        "error: characters/eliza.yaml:3: knows.until: this key is missing\n  3 | knows: {}\n"
        "hint: add it, for example: until: 1827-03-26\n\n"
        "error: characters/eliza.yaml:3: knows.never: protective.count is 4, and there is nothing here to ask about\n"
        "  3 | knows: {}\nhint: name a few things the character cannot know, or set protective.count to 0"
    )


def test_all_problems_of_file_paths_and_overrides_come_at_once(workspace):
    text = MINIMAL.replace("1827-03-26", "1827-02-30").replace("profiles/eliza", "profiles/gone")
    text += "train: {epochs: 0}\nsecret: x\n"
    assert refused(workspace, text, overrides=["train.epoch=3"]) == (
        "error: --set train.epoch=3: train.epoch: unknown key\nhint: did you mean 'epochs'?\n\n"
        "error: characters/eliza.yaml:4: profile.file: no such file: characters/profiles/gone.md\n"
        "  4 | profile: {file: profiles/gone.md}\nhint: files there: eliza.md\n\n"
        "error: characters/eliza.yaml:6: knows.until: '1827-02-30' is not a day of the calendar\n"
        "  6 |   until: 1827-02-30\n\n"
        "error: characters/eliza.yaml:10: train.epochs: expected a whole number between 1 and 1000, got 0\n"
        "  10 | train: {epochs: 0}\n\n"
        "error: characters/eliza.yaml:11: secret: unknown key\n  11 | secret: [not shown]\n"
        "hint: keys and endpoints come from the environment, never from a spec"
    )


@pytest.mark.parametrize(
    ("override", "error"),
    [
        (
            "train.epochs=x",
            "error: --set train.epochs=x: train.epochs: expected a whole number between 1 and 1000, got 'x'",
        ),
        (
            "train.epochs",
            "error: --set train.epochs: expected KEY=VALUE\nhint: for example: --set train.epochs=5",
        ),
        ("=3", "error: --set =3: expected KEY=VALUE\nhint: for example: --set train.epochs=5"),
        ("train=3", "error: --set train=3: train: expected keys and values, got 3"),
        (
            "generator.api_base=http://evil.example",
            (
                "error: --set generator.api_base=[not shown]: generator.api_base: unknown key\n"
                "hint: keys and endpoints come from the environment, never from a spec"
            ),
        ),
        (
            "generator={api_key: sk-1}",
            (
                "error: --set generator=[not shown]: generator.api_key: unknown key\n"
                "hint: keys and endpoints come from the environment, never from a spec"
            ),
        ),
        (
            "knows.never=[a",
            "error: --set knows.never=[a: knows.never: not valid YAML: did not find expected ',' or ']'",
        ),
        (
            "dialogues.max_turns=3",
            (
                "error: --set dialogues.max_turns=3: dialogues.max_turns: expected at least dialogues.min_turns, which is 4, got 3\n"
                "hint: set dialogues.min_turns too"
            ),
        ),
        (
            "written=../../../etc/passwd",
            (
                "error: --set written=../../../etc/passwd: written: '../../../etc/passwd' leads out of the workspace\n"
                "hint: a spec can name files inside the workspace only"
            ),
        ),
        (
            "name=1984",
            "error: --set name=1984: name: expected a name of 1 to 200 printable characters on one line, without < > |, got 1984\nhint: put it in quotes",
        ),
    ],
)
def test_a_wrong_override_names_itself(workspace, override, error):
    assert refused(workspace, overrides=[override]) == error


def test_a_wrong_preset_option_names_the_nearest(workspace):
    assert refused(workspace, preset="papr") == (
        "error: --preset papr: expected one of laptop, smoke, paper, got 'papr'\nhint: did you mean 'paper'?"
    )


# -- hostile -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/etc/passwd", "expected a path relative to the spec's folder, got '/etc/passwd'"),
        ("../../outside.md", "'../../outside.md' leads out of the workspace"),
        ("profiles/../../../outside.md", "'profiles/../../../outside.md' leads out of the workspace"),
        ("profiles/link.md", "'profiles/link.md' is a link that leads out of the workspace"),
        ("folder/outside.md", "'folder/outside.md' is a link that leads out of the workspace"),
        ("../.env", "'../.env' is hidden: a spec cannot name .env"),
        ("profiles/env.md", "'profiles/env.md' is hidden: a spec cannot name .env"),
    ],
)
def test_a_path_that_leads_out_is_refused(workspace, path, message):
    (workspace.parent / "outside.md").write_text("secret")
    (workspace / ".env").write_text("OPENAI_API_KEY=secret")
    (workspace / "characters/profiles/link.md").symlink_to(workspace.parent / "outside.md")
    (workspace / "characters/profiles/env.md").symlink_to(workspace / ".env")
    (workspace / "characters/folder").symlink_to(workspace.parent)
    assert refused(workspace, MINIMAL.replace("profiles/eliza.md", path)) == (
        f"error: characters/eliza.yaml:4: profile.file: {message}\n"
        f"  4 | profile: {{file: {path}}}\nhint: a spec can name files inside the workspace only"
    )


def test_a_link_that_stays_inside_is_followed(workspace):
    (workspace / "characters/profiles/link.md").symlink_to("eliza.md")
    found = load(workspace, MINIMAL.replace("profiles/eliza", "profiles/link"))
    assert found.profile.file == "characters/profiles/link.md"


def test_a_link_to_itself_is_told(workspace):
    (workspace / "characters/written/loop.md").symlink_to("loop.md")
    assert refused(workspace, MINIMAL + "written: written/loop.md\n") == (
        "error: characters/eliza.yaml:10: written: characters/written/loop.md cannot be read: "
        "Too many levels of symbolic links\n  10 | written: written/loop.md"
    )


def test_a_profile_of_2_mib_is_refused(workspace):
    os.truncate(workspace / "characters/profiles/eliza.md", 2 * 1024 * 1024)
    assert refused(workspace) == (
        "error: characters/eliza.yaml:4: profile.file: characters/profiles/eliza.md is too large: 2,097,152 bytes, "
        "the limit is 1,048,576\n  4 | profile: {file: profiles/eliza.md}"
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ('"Bee\\nthoven"', "'Bee\\nthoven'"),
        ('"Bee\\u001b[31m"', "'Bee\\x1b[31m'"),
        ("<|im_end|>", "'<|im_end|>'"),
        ('" Beethoven"', "' Beethoven'"),
        ('""', "''"),
        ("B (speaking)", "'B (speaking)'"),
    ],
)
def test_a_name_that_could_forge_a_prompt_is_refused(workspace, name, shown):
    text = MINIMAL.replace("short_name: Beethoven", f"short_name: {name}")
    assert refused(workspace, text).splitlines()[0] == (
        "error: characters/eliza.yaml:3: short_name: expected a name of 1 to 60 printable characters on one line, "
        f"without < > | ( ) :, got {shown}"
    )


def test_a_character_that_turns_the_text_around_is_refused(workspace):
    assert refused(workspace, MINIMAL.replace("cinema", '"cin\\u202Eema"')) == (
        "error: characters/eliza.yaml:7: knows.never[1]: character U+202E does not print, got 'cin\\u202eema'\n"
        '  7 |   never: [motor cars, "cin\\u202Eema"]\nhint: delete it'
    )


@pytest.mark.parametrize(
    "model",
    [
        "/etc/model",
        "../weights",
        "a/../b",
        "http://x/y",
        "a/b://c",
        "a//b",
        "local/this",
        "gpt-4o",
        "a/b c",
        "a/b\\n",
        "",
    ],
)
def test_a_model_is_named_and_never_addressed(workspace, model):
    for key in ("generator.model", "judge.model", "interview.interviewer.model", "train.base_model"):
        if (key, model) != ("train.base_model", "local/this"):
            assert refused(workspace, overrides=[f'{key}="{model}"'])
    assert refused(workspace, overrides=[f'interview.baselines=["{model}"]'])


def test_ten_thousand_unknown_keys_are_told_fifty_times(workspace):
    text = MINIMAL + "".join(f"{'k' * 100}{number}: 1\n" for number in range(9000))
    error = refused(workspace, text)
    assert error.count("unknown key") == 50
    assert error.endswith("\n\n… and 8,950 more in characters/eliza.yaml")


def test_what_is_wrong_after_the_fiftieth_problem_is_not_taken_for_right(workspace):
    text = MINIMAL + "".join(f"k{number}: 1\n" for number in range(60)) + "dialogues: {min_turns: x}\n"
    assert refused(workspace, text).endswith("\n\n… and 11 more in characters/eliza.yaml")


def test_a_100_mb_spec_and_a_latin_1_spec_are_refused(workspace):
    path = workspace / "characters" / "big.yaml"
    path.touch()
    os.truncate(path, 100_000_000)
    with pytest.raises(FileProblems) as caught:
        spec.load(path, workspace)
    assert (
        caught.value.render()
        == "error: characters/big.yaml: too large: 100,000,000 bytes, the limit is 1,048,576"
    )
    path.write_bytes("charforge: 1\nname: Kärntner\n".encode("latin-1"))
    with pytest.raises(FileProblems) as caught:
        spec.load(path, workspace)
    assert caught.value.render() == (
        "error: characters/big.yaml:2: not UTF-8: byte 0xe4 in column 8\n  2 | name: Kärntner\n"
        "hint: save it as UTF-8, for example: iconv -f LATIN1 -t UTF-8"
    )


@pytest.mark.parametrize("text", ["- a\n", "text\n", "3\n"])
def test_a_spec_that_is_no_mapping_is_one_problem(workspace, text):
    first = refused(workspace, text).split("\n")[0]
    assert first.startswith("error: characters/eliza.yaml: expected keys and values, got ")


# -- where the spec itself lies ----------------------------------------------------------------------------------


def test_a_missing_spec_names_a_near_one(workspace):
    load(workspace)
    for name in ("elisa.yaml", "eliza.yml", "eliza"):
        with pytest.raises(FileProblems) as caught:
            spec.load(workspace / "characters" / name, workspace)
        assert caught.value.render() == (
            f"error: characters/{name}: no such file\nhint: did you mean 'characters/eliza.yaml'?"
        )


@pytest.mark.parametrize("name", ["Eliza.yaml", "-eliza.yaml", "eli za.yaml", "eliza.yml", "é.yaml"])
def test_a_specs_name_is_the_id_and_must_be_one(workspace, name):
    assert refused(workspace, name=name) == (
        f"error: characters/{name}: expected a file named like characters/ludwig-van-beethoven.yaml\n"
        "hint: the file's name becomes the character's id: lower-case letters, digits and '-'"
    )


def test_a_spec_outside_the_workspace_is_refused(workspace):
    path = workspace.parent / "eliza.yaml"
    path.write_text(MINIMAL)
    with pytest.raises(FileProblems) as caught:
        spec.load(path, workspace)
    assert caught.value.render() == (
        f"error: {path}: the spec lies outside the workspace\n"
        "hint: run charforge in the folder that holds the characters"
    )
    (workspace / "characters" / "link.yaml").symlink_to(path)
    with pytest.raises(FileProblems) as caught:
        spec.load(workspace / "characters" / "link.yaml", workspace)
    assert (
        caught.value.render()
        == "error: characters/link.yaml: the spec is a link that leads out of the workspace"
    )


# -- contestants, judges and questions ---------------------------------------------------------------------------


@pytest.fixture
def answers(workspace):
    """A workspace with transcripts in it, and things beside them that no spec may read."""
    folder = workspace / "characters" / "transcripts"
    (folder / ".git").mkdir(parents=True)
    for name in ("a.jsonl", "b.csv", ".git/x.jsonl"):
        (folder / name).write_text("{}\n")
    (workspace.parent / "outside.jsonl").write_text("secret\n")
    (folder / "out.jsonl").symlink_to(workspace.parent / "outside.jsonl")
    return workspace


def with_transcripts(*items, more=""):
    listed = "".join(f"    - {item}\n" for item in items)
    return MINIMAL + f"  transcripts:\n{listed}{more}"


def test_transcripts_are_contestants_with_files_of_the_workspace(answers):
    text = with_transcripts(
        "{name: alpaca-7b, files: [transcripts/a.jsonl, ./transcripts/b.csv]}",
        "{name: 9.b_c, files: [../characters/transcripts/a.jsonl]}",
    )
    found = load(answers, text)
    assert found.interview.transcripts == (
        Transcript(
            name="alpaca-7b", files=("characters/transcripts/a.jsonl", "characters/transcripts/b.csv")
        ),
        Transcript(name="9.b_c", files=("characters/transcripts/a.jsonl",)),
    )
    assert found.resolved()["interview"]["transcripts"][1] == {
        "name": "9.b_c",
        "files": ["characters/transcripts/a.jsonl"],
    }
    assert spec.examine(answers / "characters" / "eliza.yaml", answers).files == {
        "profile.file": "characters/profiles/eliza.md",
        "interview.questions": "characters/questions/eliza.yaml",
        "interview.transcripts[0].files[0]": "characters/transcripts/a.jsonl",
        "interview.transcripts[0].files[1]": "characters/transcripts/b.csv",
        "interview.transcripts[1].files[0]": "characters/transcripts/a.jsonl",
    }


@pytest.mark.parametrize(
    ("item", "error"),
    [
        (
            "{name: x, files: [/etc/passwd]}",
            (
                "interview.transcripts[0].files[0]: expected a path relative to the spec's folder, got '/etc/passwd'\n"
                "  11 |     - {name: x, files: [/etc/passwd]}\nhint: a spec can name files inside the workspace only"
            ),
        ),
        (
            "{name: x, files: [../../outside.jsonl]}",
            (
                "interview.transcripts[0].files[0]: '../../outside.jsonl' leads out of the workspace\n"
                "  11 |     - {name: x, files: [../../outside.jsonl]}\n"
                "hint: a spec can name files inside the workspace only"
            ),
        ),
        (
            "{name: x, files: [transcripts/out.jsonl]}",
            (
                "interview.transcripts[0].files[0]: 'transcripts/out.jsonl' is a link that leads out of the workspace\n"
                "  11 |     - {name: x, files: [transcripts/out.jsonl]}\n"
                "hint: a spec can name files inside the workspace only"
            ),
        ),
        (
            "{name: x, files: [transcripts/.git/x.jsonl]}",
            (
                "interview.transcripts[0].files[0]: 'transcripts/.git/x.jsonl' is hidden: a spec cannot name .git\n"
                "  11 |     - {name: x, files: [transcripts/.git/x.jsonl]}\n"
                "hint: a spec can name files inside the workspace only"
            ),
        ),
        (
            "{name: x, files: [transcripts/c.jsonl]}",
            (
                "interview.transcripts[0].files[0]: no such file: characters/transcripts/c.jsonl\n"
                "  11 |     - {name: x, files: [transcripts/c.jsonl]}\nhint: files there: a.jsonl, out.jsonl"
            ),
        ),
        (
            "{name: x, files: [transcripts]}",
            (
                "interview.transcripts[0].files[0]: characters/transcripts is not a regular file\n"
                "  11 |     - {name: x, files: [transcripts]}"
            ),
        ),
        (
            "{name: x, files: [transcripts/a.jsonl, ./transcripts/a.jsonl]}",
            (
                "interview.transcripts[0].files[1]: './transcripts/a.jsonl' is there twice\n"
                "  11 |     - {name: x, files: [transcripts/a.jsonl, ./transcripts/a.jsonl]}\nhint: keep one of them"
            ),
        ),
        (
            "{name: x}",
            (
                "interview.transcripts[0].files: this key is missing\n  11 |     - {name: x}\n"
                "hint: add it, for example: files: [transcripts/alpaca-7b.jsonl]"
            ),
        ),
        (
            "{name: Alpaca 7B, files: [transcripts/a.jsonl]}",
            (
                "interview.transcripts[0].name: expected a name of small letters, digits, '.', '_' and '-', "
                "got 'Alpaca 7B'\n  11 |     - {name: Alpaca 7B, files: [transcripts/a.jsonl]}"
            ),
        ),
        (
            "{name: trained, files: [transcripts/a.jsonl]}",
            (
                "interview.transcripts[0].name: there is a contestant 'trained' already\n"
                "  11 |     - {name: trained, files: [transcripts/a.jsonl]}\n"
                "hint: every contestant has a name of its own; trained and base are taken"
            ),
        ),
        (
            "transcripts/a.jsonl",
            (
                "interview.transcripts[0]: expected a transcript such as {name: alpaca-7b, files: "
                "[transcripts/alpaca-7b.jsonl]}, got 'transcripts/a.jsonl'\n  11 |     - transcripts/a.jsonl"
            ),
        ),
    ],
)
def test_a_transcript_that_cannot_be_is_told(answers, item, error):
    assert refused(answers, with_transcripts(item)) == f"error: characters/eliza.yaml:11: {error}"


def test_two_transcripts_have_two_names(answers):
    item = "{name: x, files: [transcripts/a.jsonl]}"
    assert refused(answers, with_transcripts(item, item)) == (
        "error: characters/eliza.yaml:12: interview.transcripts[1].name: there is a contestant 'x' already\n"
        f"  12 |     - {item}\nhint: every contestant has a name of its own; trained and base are taken"
    )


def test_a_transcript_is_bounded_in_size(answers, monkeypatch):
    monkeypatch.setattr(spec, "MAX_TRANSCRIPT_BYTES", 2)
    item = "{name: x, files: [transcripts/a.jsonl]}"
    assert refused(answers, with_transcripts(item)) == (
        "error: characters/eliza.yaml:11: interview.transcripts[0].files[0]: characters/transcripts/a.jsonl is too large: "
        f"3 bytes, the limit is 2\n  11 |     - {item}"
    )


def test_an_override_of_transcripts_says_everything_too(answers):
    label = (
        "error: --set interview.transcripts=[{name: x}]: interview.transcripts[0].files: this key is missing"
    )
    assert refused(answers, overrides=["interview.transcripts=[{name: x}]"]) == label


def test_somebody_is_left_to_interview(answers):
    nobody = "  trained: false\n  baselines: []\n"
    assert refused(answers, MINIMAL + nobody) == (
        "error: characters/eliza.yaml:10: interview.trained: nobody is left to interview\n  10 |   trained: false\n"
        "hint: name a model in interview.baselines or a file in interview.transcripts"
    )
    assert not load(answers, MINIMAL + "  trained: false\n").interview.trained
    item = "{name: x, files: [transcripts/a.jsonl]}"
    assert load(answers, with_transcripts(item, more=nobody)).interview.baselines == ()


def test_what_is_only_evaluated_needs_nothing_to_be_generated_from(workspace):
    text = MINIMAL.replace("[motor cars, cinema]", "[]") + "  trained: false\n"
    found = load(workspace, text)
    assert (found.written, found.knows.never) == (None, ())


def test_questions_may_be_generated(workspace):
    text = MINIMAL.replace("questions/eliza.yaml", "null") + "  generate: {single: 12}\n"
    (workspace / "characters" / "questions" / "eliza.yaml").unlink()
    found = load(workspace, text).interview
    assert found.questions is None
    assert found.generate == GeneratedQuestions(
        model="embedded/smollm2-135m-instruct",
        temperature=0.7,
        max_tokens=32,
        single=12,
        multi=10,
        attempts=3,
    )


@pytest.mark.parametrize("name", spec.PRESETS)
def test_a_preset_generates_questions_with_its_generator(workspace, name):
    found = load(workspace, preset=name)
    assert found.interview.generate.model == found.generator.model


def test_a_panel_judges_beside_the_judge(workspace):
    text = (
        MINIMAL + "judge: {model: openai/x, panel: [openai/y, embedded/smollm2-135m-instruct], pairwise: 0}\n"
    )
    found = load(workspace, text).judge
    assert (found.panel, found.pairwise) == (("openai/y", "embedded/smollm2-135m-instruct"), 0)
    assert load(workspace, text, overrides=["judge.pairwise="]).judge.pairwise is None
    again = text.replace("openai/y", "openai/x")
    assert refused(workspace, again) == (
        "error: characters/eliza.yaml:10: judge.panel[0]: 'openai/x' is judge.model already\n"
        f"  10 | {again.splitlines()[-1]}\nhint: keep one of them: judge.repeats asks the same judge again"
    )
    unknown = text.replace("embedded/smollm2-135m-instruct", "embedded/smollm2-135m")
    assert "judge.panel[1]: expected one of embedded/smollm2-135m-instruct" in refused(workspace, unknown)
