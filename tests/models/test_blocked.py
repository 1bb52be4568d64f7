from __future__ import annotations

import pytest
import torch

from charforge.models.blocked import Blocked, block
from charforge.models.load import load_folder

bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no products of bfloat16"
)


@bfloat16
@pytest.mark.parametrize("rows", [1, 3, 64, 200])
@pytest.mark.parametrize("bias", [True, False])
def test_weights_in_blocks_give_the_same_numbers(rows, bias):
    torch.manual_seed(0)
    linear = torch.nn.Linear(48, 80, bias=bias).bfloat16()
    x = torch.randn(1, rows, 48).bfloat16()
    with torch.inference_mode():
        assert torch.allclose(Blocked(linear)(x), linear(x), atol=1e-2)


@bfloat16
def test_a_model_of_bfloat16_says_the_same_with_its_weights_in_blocks(tiny):
    plain, _ = load_folder(tiny, torch.bfloat16)
    blocked, _ = load_folder(tiny, torch.bfloat16)
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        block(blocked)
        assert isinstance(blocked.get_output_embeddings(), Blocked)
        assert not [each for each in blocked.modules() if type(each) is torch.nn.Linear]
        assert torch.allclose(blocked(input_ids=ids).logits, plain(input_ids=ids).logits, atol=0.05)


def test_other_weights_stay_as_they_are(tiny):
    model, _ = load_folder(tiny, torch.float32)
    block(model)
    assert not [each for each in model.modules() if isinstance(each, Blocked)]


@bfloat16
def test_a_layer_that_is_more_than_linear_stays_as_it_is():
    class Special(torch.nn.Linear):
        pass

    model = torch.nn.Sequential(Special(8, 8).bfloat16(), torch.nn.Linear(8, 8).bfloat16())
    block(model)
    assert [type(layer) for layer in model] == [Special, Blocked]
