"""Model folders of a stranger: no code, no pickle, nothing but what lies in them, and an error where they lie about it."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
from pathlib import Path

import pytest

from charforge import weights
from charforge.errors import CharForgeError


@pytest.fixture
def folder(tiny, tmp_path):
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def configure(folder, name="config.json", **changes):
    path = folder / name
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | changes))


def refused(folder):
    from charforge.models.load import load_folder

    with pytest.raises(CharForgeError) as raised:
        load_folder(folder)
    return raised.value.message


@pytest.mark.parametrize(
    "named", ["../other.safetensors", "/etc/passwd", "a\\b.safetensors", "gone.safetensors", 3]
)
def test_an_index_names_files_of_its_folder_only(folder, named):
    shutil.copy(folder / "model.safetensors", folder.parent / "other.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"model.norm.weight": named}}))
    with pytest.raises(CharForgeError) as raised:
        weights.files(folder)
    assert raised.value.message.startswith(f"{index} names ")
    assert refused(folder) == raised.value.message


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 1}', "[" * 100_000])
def test_an_index_that_cannot_be_read_is_an_error(folder, text):
    (folder / "model.safetensors.index.json").write_text(text)
    assert refused(folder).endswith("does not say which file holds which weights")


def test_an_adapter_beside_a_model_cannot_bring_another_model_in(folder, tiny):
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(tiny)})
    )
    with pytest.raises(CharForgeError, match="names another model to begin with"):
        weights.files(folder)
    assert "names another model to begin with" in refused(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        "[" * 100_000,
        "\x00",
        '{"model_type": ["llama"]}',
        '{"model_type": "llama", "architectures": [[]]}',
    ],
)
def test_a_config_that_is_none_is_an_error(folder, text):
    (folder / "config.json").write_text(text)
    refused(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 10**12},
        {"hidden_size": -1},
        {"hidden_size": "many"},
        {"num_hidden_layers": 0.5},
        {"vocab_size": 0},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"torch_dtype": "__import__('os')", "dtype": "__import__('os')"},
        {"rope_scaling": {"rope_type": "evil"}, "rope_parameters": {"rope_type": "evil"}},
    ],
)
def test_a_config_that_cannot_be_is_an_error(folder, changes):
    configure(folder, **changes)
    refused(folder)


def test_code_that_a_config_and_a_tokenizer_name_is_never_run(folder, tmp_path):
    """The model's own type is known here, so that nothing is asked for: the names are not followed all the same."""
    from charforge.models.load import load_folder

    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    configure(folder, auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    configure(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]})
    configure(folder, "generation_config.json", custom_generate="evil", trust_remote_code=True)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"open({str(ran)!r}, 'w')\n")
    with contextlib.suppress(CharForgeError):
        load_folder(folder)
    assert not ran.exists()


class Evil:
    ran: str

    def __reduce__(self):
        return open, (type(self).ran, "w")


def test_a_pickle_that_calls_itself_safetensors_is_never_unpickled(folder, tmp_path):
    import torch

    Evil.ran = str(tmp_path / "ran")
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Evil()}, folder / "model.safetensors")
    assert "could not be loaded" in refused(folder)
    assert not (tmp_path / "ran").exists()


def test_pickles_beside_safetensors_are_not_opened(folder, tmp_path, watched):
    import torch

    from charforge.models.load import load_folder

    Evil.ran = str(tmp_path / "ran")
    pickles = ("pytorch_model.bin", "model.pt", "model.pkl", "training_args.bin", "tokenizer.pkl")
    for name in pickles:
        torch.save({"model.norm.weight": Evil()}, folder / name)
    with watched() as events:
        assert not {path.name for path in weights.files(folder, pickled=True)} & set(pickles)
        load_folder(folder)
    assert not (tmp_path / "ran").exists()
    assert not [event for event in events if event.endswith(pickles)]


def header(folder, change):
    """Change a safetensors file's header: `change` takes (its values, the bytes behind) and returns the whole file."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    path.write_bytes(change(json.loads(data[8 : 8 + size]), data[8 + size :]))


def packed(values, rest, size=None):
    text = json.dumps(values).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + rest


def moved(values, rest, begin, end):
    name = next(name for name in values if name != "__metadata__")
    values[name]["data_offsets"] = [begin, end]
    return packed(values, rest)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda values, rest: packed(values, rest, 2**63), id="a header of exabytes"),
        pytest.param(lambda values, rest: packed(values, rest, 4 << 30), id="a header of 4 GB"),
        pytest.param(lambda values, rest: packed(values, b""), id="no weights"),
        pytest.param(lambda values, rest: moved(values, rest, 0, 8), id="another size"),
        pytest.param(lambda values, rest: moved(values, rest, 0, 1 << 60), id="beyond the end"),
        pytest.param(lambda values, rest: moved(values, rest, 64, 0), id="backwards"),
        pytest.param(lambda values, rest: packed({**values, "x": values["lm_head.weight"]} if "lm_head.weight" in values
                     else {**values, "x": next(v for k, v in values.items() if k != "__metadata__")}, rest), id="overlapping"),
        pytest.param(lambda _values, rest: struct.pack("<Q", 100_000) + b"[" * 100_000 + rest, id="lists in lists"),
        pytest.param(lambda _values, _rest: b"", id="empty"),
    ],
)  # fmt: skip
def test_a_safetensors_header_that_lies_is_an_error(folder, change):
    header(folder, change)
    assert "could not be loaded" in refused(folder)
