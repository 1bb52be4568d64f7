from __future__ import annotations

import pytest

from charforge import weights
from charforge.errors import CharForgeError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text(name)
    return folder


def test_bytes_and_names_make_the_digest(folder):
    before = weights.digest(folder)
    (folder / "model.safetensors").write_text("other")
    changed = weights.digest(folder)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert len({before, changed, weights.digest(folder)}) == 3


def test_what_is_not_read_does_not_count(folder, tmp_path):
    before = weights.digest(folder)
    for name in ("README.md", "modeling.py", "pytorch_model.bin", "optimizer.pt", "onnx/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no")
    assert weights.digest(folder) == before == weights.digest(folder, pickled=True)
    assert weights.digest(folder.rename(tmp_path / "elsewhere")) == before


def test_pickled_tensors_count_for_a_weight_difference_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(CharForgeError) as caught:
        weights.digest(folder)
    assert caught.value.render() == (
        f"error: {folder} is no model folder: it has no config.json, or no safetensors weights\n"
        "hint: other weight formats can run code when loaded and are not read"
    )
    before = weights.digest(folder, pickled=True)
    (folder / "pytorch_model-00002-of-00002.bin").write_text("more")
    assert weights.digest(folder, pickled=True) != before


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_that_is_no_model_is_refused(folder, missing):
    (folder / missing).unlink()
    for pickled in (False, True):
        with pytest.raises(CharForgeError, match="is no model folder"):
            weights.files(folder, pickled=pickled)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CharForgeError) as caught:
        weights.files(tmp_path / "no")
    assert caught.value.render() == (
        f"error: {tmp_path / 'no'}: no such folder\nhint: train.base_model names a model's folder by ./path"
    )
