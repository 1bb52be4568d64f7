"""`charforge export`: from what the store has, to a folder, whole or not at all."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import yaml

from charforge.testing import MODEL, ScriptedWorkshop

SCRIPTED = ("--preset=smoke", f"--set=generator.model={MODEL}")


@pytest.fixture
def built(run, eliza, scripted):
    """A character built up to its (scripted) model."""
    assert scripted
    status, _, err = run("build", "eliza", "--to", "model", *SCRIPTED)
    assert status == 0, err
    return eliza.parents[1]


def bytes_under(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_model_is_exported_as_training_left_it(run, built):
    before = bytes_under(built / ".charforge")
    status, out, err = run("export", "hf", "eliza", *SCRIPTED)
    assert (status, err) == (0, "")
    folder = built / "export" / "eliza-hf"
    assert {path.stat().st_mode for path in folder.iterdir()} == {(folder / "README.md").stat().st_mode}
    assert (
        out == f"export/eliza-hf: 4 files, {sum(f.stat().st_size for f in folder.iterdir()) / 1e6:.1f} MB\n"
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "charforge.json",
        "config.json",
        "model.safetensors",
    ]
    view = built / "build" / "eliza" / "model"
    assert (folder / "model.safetensors").read_bytes() == (view / "model.safetensors").read_bytes()
    assert bytes_under(built / ".charforge") == before  # the store is only read
    assert [path.name for path in folder.parent.iterdir()] == ["eliza-hf"]  # nothing half made is left
    facts = json.loads((folder / "charforge.json").read_text())
    assert facts["generator"] == MODEL
    assert set(facts["stages"]) == {
        "profile", "written", "scenes", "dialogues", "protective", "dataset", "base", "model",
    }  # fmt: skip
    assert None not in facts["stages"].values()
    card = (folder / "README.md").read_text()
    assert facts["stages"]["model"]["action"] in card
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_the_data_set_is_exported_with_its_card(run, built):
    status, _, err = run("export", "dataset", "eliza", "--out", "data", *SCRIPTED)
    assert (status, err) == (0, "")
    assert sorted(path.name for path in Path("data").iterdir()) == [
        "README.md",
        "charforge.json",
        "sft.jsonl",
        "stats.json",
    ]
    assert Path("data/sft.jsonl").read_bytes() == (built / "build" / "eliza" / "sft.jsonl").read_bytes()
    assert json.loads(Path("data/charforge.json").read_text())["meta"].startswith("You are Eliza Doolittle.")


def test_what_was_never_built_says_how_to_build_it(run, eliza):
    assert eliza.is_file()
    assert run("export", "gguf", "eliza") == (
        1,
        "",
        "error: eliza: model was never built\nhint: charforge build characters/eliza.yaml --to model\n",
    )
    assert not (eliza.parents[1] / "export" / "eliza-gguf").exists()


def test_what_is_no_longer_current_is_exported_with_a_note_and_its_own_facts(run, built, edit):
    edit(built / "characters" / "profiles" / "eliza.md", "Write here where and when", "Say where and when")
    status, _, err = run("export", "hf", "eliza", *SCRIPTED)
    assert status == 0
    assert err == "note: eliza: model is not up to date; this is what its last run made\n"
    facts = json.loads((built / "export" / "eliza-hf" / "charforge.json").read_text())
    assert None not in facts["stages"].values()


def test_a_folder_that_is_not_empty_stays(run, built):
    assert built
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    assert run("export", "hf", "eliza", "--out", "mine", *SCRIPTED) == (
        1,
        "",
        "error: mine is there already, and not empty\nhint: --force replaces it, --out names another\n",
    )
    assert run("export", "hf", "eliza", "--out", "mine", "--force", *SCRIPTED) == (
        1,
        "",
        (
            "error: mine is not replaced: it is no export, for it has no charforge.json\n"
            "hint: name another folder with --out\n"
        ),
    )
    assert Path("mine/thesis.txt").read_text() == "years of work"


def test_an_export_is_replaced_when_forced(run, built):
    assert built
    assert run("export", "hf", "eliza", "--out", "mine", *SCRIPTED)[0] == 0
    Path("mine/old.txt").touch()
    assert run("export", "dataset", "eliza", "--out", "mine", *SCRIPTED)[0] == 1
    assert run("export", "dataset", "eliza", "--out", "mine", "--force", *SCRIPTED)[0] == 0
    assert sorted(path.name for path in Path("mine").iterdir()) == [
        "README.md", "charforge.json", "sft.jsonl", "stats.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "status", "error"),
    [
        (
            ("gguff", "eliza"),
            2,
            "error: export: no kind is called 'gguff'\nhint: did you mean 'gguf'?\n",
        ),
        (
            ("zip", "eliza"),
            2,
            "error: export: no kind is called 'zip'\nhint: kinds are hf, lora, merged, gguf, delta, dataset\n",
        ),
        (
            ("hf", "eliza", "--type", "f16"),
            2,
            "error: export: --type is for gguf, not for hf\n",
        ),
        (
            ("hf", "eliza", "--out", ".charforge/objects"),
            1,
            "error: .charforge/objects lies in the store\nhint: export to a folder outside .charforge/\n",
        ),
        (
            ("hf", "eliza", "--out", "characters/eliza.yaml"),
            1,
            "error: characters/eliza.yaml is there already, and is no folder\nhint: name another with --out\n",
        ),
        (
            ("gguf", "eliza", "--type", "q4_1"),
            1,
            (
                "error: q4_1 would undo the training: embedded/smollm2-135m-instruct was dequantised from q4_1, "
                "and rounds back to it\nhint: choose q8_0, or q4_0 for 4 bits\n"
            ),
        ),
        (
            ("lora", "eliza"),
            1,
            (
                "error: eliza: there is no adapter to export: it was trained in full\n"
                "hint: train with method: lora and lora.merge: false, or export hf\n"
            ),
        ),
        (
            ("merged", "eliza"),
            1,
            (
                "error: eliza: there is nothing to merge: it was trained in full\n"
                "hint: charforge export hf eliza writes its weights\n"
            ),
        ),
    ],
)
def test_what_cannot_be_is_one_clear_error(run, built, argv, status, error):
    assert run("export", *argv, *SCRIPTED) == (status, "", error)
    export = built / "export"
    assert not export.exists() or not any(export.iterdir())


class Real(ScriptedWorkshop):
    """Scripted, but its weights are a real model's: two layers, untrained."""

    def __init__(self, folder, trained=None):
        super().__init__()
        self.folder = folder
        self.trained = trained or folder

    async def export_base(self, job, on_progress):
        shutil.copytree(self.folder, job["out"])
        return {}

    async def train(self, job, on_progress):
        await super().train({**job, "out": str(Path(job["out"]).with_name("weights"))}, on_progress)
        shutil.copytree(self.trained, job["out"])
        return {}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    path = Path(__file__).parents[1] / "models" / "conftest.py"
    spec = importlib.util.spec_from_file_location("models_conftest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build(tmp_path_factory.mktemp("tiny") / "model")


def test_gguf_files_come_with_a_modelfile(run, eliza, monkeypatch, tiny_model):
    monkeypatch.setattr("charforge.workshop.LocalWorkshop", lambda **_: Real(tiny_model))
    assert run("build", "eliza", "--to", "model", *SCRIPTED)[0] == 0
    status, _, err = run("export", "gguf", "eliza", "--type", "all", *SCRIPTED)
    assert (status, err) == (
        0,
        "".join(f"eliza: writing eliza-{kind}.gguf\n" for kind in ("f16", "q8_0", "q4_0")),
    )
    folder = eliza.parents[1] / "export" / "eliza-gguf"
    assert sorted(path.name for path in folder.iterdir()) == [
        "Modelfile", "README.md", "charforge.json",
        "eliza-f16.gguf", "eliza-q4_0.gguf", "eliza-q8_0.gguf",
    ]  # fmt: skip
    assert "FROM ./eliza-q8_0.gguf\n" in (folder / "Modelfile").read_text()
    assert run("export", "gguf", "eliza", "--out", "measured", "--measure", *SCRIPTED) == (
        1,
        "",
        "error: eliza: no dialogues were held out to measure on\nhint: set train.held_out, and build again\n",
    )


@pytest.fixture(scope="session")
def tiny_adapter(tiny_model, tmp_path_factory):
    import torch

    from charforge.models.adapter import save_adapter, wrap
    from charforge.models.load import load_folder
    from charforge.models.vocabulary import add_end_of_turn

    model, tokenizer = load_folder(tiny_model, torch.bfloat16)
    add_end_of_turn(model, tokenizer)
    wrapped = wrap(model, tokenizer, {"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": "all-linear"})
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(wrapped, tokenizer, folder, "embedded/smollm2-135m-instruct")
    return folder


def test_an_adapter_is_exported_alone_or_merged(run, eliza, monkeypatch, tiny_model, tiny_adapter):
    monkeypatch.setattr("charforge.workshop.LocalWorkshop", lambda **_: Real(tiny_model, tiny_adapter))
    lora = (*SCRIPTED, "--set=train.method=lora")
    status, _, err = run("build", "eliza", "--to", "model", *lora)
    assert status == 0, err
    exports = eliza.parents[1] / "export"
    assert run("export", "lora", "eliza", *lora)[0] == 0
    for path in tiny_adapter.iterdir():
        assert (exports / "eliza-lora" / path.name).read_bytes() == path.read_bytes()
    assert "base_model_relation: adapter" in (exports / "eliza-lora" / "README.md").read_text()
    status, out, err = run("export", "hf", "eliza", *lora)
    assert (status, err) == (0, "eliza: merging the adapter\n")
    assert out.endswith(", the adapter merged into its base model\n")
    assert "A LoRA adapter merged into its base model" in (exports / "eliza-hf" / "README.md").read_text()
    assert run("export", "merged", "eliza", *lora)[0] == 0
    weights = "model.safetensors"
    assert (exports / "eliza-merged" / weights).read_bytes() == (exports / "eliza-hf" / weights).read_bytes()
    status, out, err = run("export", "delta", "eliza", *lora)
    assert (status, err.splitlines()[-1]) == (0, "eliza: subtracting")
