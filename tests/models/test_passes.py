"""A sample's loss and gradients are its own: the same packed and alone, and the same as the plain transformers model's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")

from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from charforge.errors import CharForgeError  # noqa: E402
from charforge.models import passes  # noqa: E402
from charforge.models.rows import Row, pack  # noqa: E402

VOCABULARY = 96

peft_quietly = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


class S(NamedTuple):
    ids: tuple[int, ...]
    targets: tuple[int, ...]


def sample(length: int, seed: int) -> S:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()
    return S(tuple(ids), tuple(range(length // 3 + 1, length)))


SAMPLES = [sample(length, length) for length in (40, 7, 21, 64, 33)]
TARGETS = sum(len(each.targets) for each in SAMPLES)


def build(dtype: Any = torch.float32, *, tied: bool = True, **config: Any) -> Any:
    torch.manual_seed(0)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
        "tie_word_embeddings": tied,
    }
    return LlamaForCausalLM(LlamaConfig(**shape | config)).to(dtype)


def plain(model: Any) -> tuple[list[float], dict[str, Any]]:
    """Each sample's summed loss, and the gradients of the mean over all, as anybody would write it with transformers."""
    losses = []
    for each in SAMPLES:
        logits = model(input_ids=torch.tensor([each.ids]), use_cache=False).logits[0].float()
        places = torch.tensor(each.targets)
        loss = torch.nn.functional.cross_entropy(
            logits[places - 1], torch.tensor(each.ids)[places], reduction="sum"
        )
        (loss / TARGETS).backward()
        losses.append(float(loss.detach()))
    return losses, gradients(model)


def ours(model: Any, rows: list[Row], *, recompute: bool = False) -> tuple[float, dict[str, Any]]:
    passes.prepare(model)
    total = sum(float(passes.backward(model, row, TARGETS, recompute=recompute)) for row in rows)
    return total, gradients(model)


def gradients(model: Any) -> dict[str, Any]:
    found = {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad()
    return found


def distance(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The largest relative distance of two gradients of one parameter."""
    assert ours.keys() == theirs.keys()
    return max(
        float((ours[name].float() - theirs[name].float()).norm() / theirs[name].float().norm())
        for name in ours
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("packing", [True, False])
def test_loss_and_gradients_are_the_plain_models(packing: bool, tied: bool) -> None:
    model = build(tied=tied).train()
    losses, expected = plain(model)
    loss, found = ours(model, pack(SAMPLES, 128, packing=packing))
    assert loss == pytest.approx(sum(losses) / TARGETS, rel=1e-5)
    assert distance(found, expected) < 1e-4


def test_in_bfloat16_they_differ_by_rounding_only() -> None:
    model = build(torch.bfloat16).train()
    exact = build().train()
    exact.load_state_dict(model.state_dict())
    losses, expected = plain(exact)
    _, theirs = plain(model)
    loss, found = ours(model, pack(SAMPLES, 128, packing=True))
    assert loss == pytest.approx(sum(losses) / TARGETS, rel=2e-2)
    assert distance(found, expected) < max(0.05, 1.5 * distance(theirs, expected))


def test_each_sequence_has_the_loss_it_has_alone() -> None:
    model = build().eval()
    losses, _ = plain(model)
    rows = pack(SAMPLES, 128, packing=True)
    passes.prepare(model)
    assert len(rows) < len(SAMPLES)
    owners = [owner for row in rows for owner in row.owners]
    found = dict(zip(owners, passes.measure(model, rows), strict=True))
    assert [found[i] for i in range(len(SAMPLES))] == pytest.approx(losses, rel=1e-5)


def test_a_sequence_does_not_notice_its_neighbours() -> None:
    model = build().eval()
    passes.prepare(model)
    [row] = pack(SAMPLES, 256, packing=True)
    before = passes.measure(model, [row])
    start, length = row.lengths[0], row.lengths[1]
    ids = list(row.ids)
    ids[start : start + length] = [(token + 1) % VOCABULARY for token in ids[start : start + length]]
    after = passes.measure(model, [Row(tuple(ids), row.lengths, row.targets, row.owners)])
    assert after[1] != before[1]
    assert after[:1] + after[2:] == before[:1] + before[2:]


def test_no_gradient_crosses_to_a_neighbour() -> None:
    model = build().train()
    passes.prepare(model)
    [row] = pack(SAMPLES[:2], 64, packing=True)
    embedded: list[Any] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        output.retain_grad()
        embedded.append(output)

    hook = model.get_input_embeddings().register_forward_hook(keep)
    first = tuple(target for target in row.targets if target < row.lengths[0])
    passes.backward(model, Row(row.ids, row.lengths, first, row.owners), 1, recompute=False)
    hook.remove()
    assert embedded[0].grad[0, : row.lengths[0] - 1].abs().sum(-1).min() > 0
    assert embedded[0].grad[0, row.lengths[0] :].abs().max() == 0


def test_computing_layers_again_gives_the_same_bits() -> None:
    model = build(torch.bfloat16).train()
    rows = pack(SAMPLES, 128, packing=True)
    kept, expected = ours(model, rows)
    again, found = ours(model, rows, recompute=True)
    assert again == kept
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_few_logits_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build().train()
    rows = pack(SAMPLES, 256, packing=True)
    loss, expected = ours(model, rows)
    monkeypatch.setattr(passes, "_LOGITS", 1)
    few, found = ours(model, rows)
    assert few == pytest.approx(loss, rel=1e-6)
    assert distance(found, expected) < 1e-5


@peft_quietly
def test_an_adapter_gets_the_gradients_it_gets_from_the_plain_model() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(
        build(),
        peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False),
    ).train()
    assert passes.causal(wrapped) is wrapped.get_base_model()
    _, expected = plain(wrapped)
    for recompute in (False, True):
        _, found = ours(wrapped, pack(SAMPLES, 128, packing=True), recompute=recompute)
        assert distance(found, expected) < 1e-4


@peft_quietly
def test_dropout_falls_on_the_same_places_when_computed_again() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=4, lora_dropout=0.5, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    wrapped = peft.get_peft_model(build(), config).train()
    found = []
    for recompute in (False, True):
        torch.manual_seed(2)
        found.append(ours(wrapped, pack(SAMPLES, 128, packing=True), recompute=recompute)[1])
    assert distance(*found) == 0


def test_the_head_is_checked_before_training() -> None:
    rows = pack(SAMPLES, 128, packing=True)
    model = build(torch.bfloat16).eval()
    passes.prepare(model)
    for row in rows:
        passes.check_head(model, row)
    assert model.config._attn_implementation == passes.NAME


def test_models_that_alter_their_logits_are_refused() -> None:
    from transformers import CohereConfig, CohereForCausalLM

    torch.manual_seed(0)
    model = CohereForCausalLM(
        CohereConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
            num_attention_heads=4, logit_scale=0.25, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    ).eval()  # fmt: skip
    passes.prepare(model)
    with pytest.raises(CharForgeError, match="type cohere are not trained here"):
        passes.check_head(model, pack(SAMPLES, 128, packing=True)[0])


def test_a_short_window_of_attention_is_refused() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
            num_attention_heads=4, num_key_value_heads=2, sliding_window=32,
        )
    ).eval()  # fmt: skip
    passes.prepare(model)
    passes.check_head(model, pack([SAMPLES[2]], 128, packing=True)[0])
    with pytest.raises(CharForgeError, match="attention window of 32"):
        passes.check_head(model, pack([SAMPLES[0]], 128, packing=True)[0])


def test_the_end_to_end_folder_is_served(tiny: Path) -> None:
    from charforge.models.load import load_folder

    model, _ = load_folder(tiny, torch.float32)
    before = copy.deepcopy(model)
    passes.prepare(model)
    row = pack(SAMPLES, 256, packing=True)[0]
    passes.check_head(model, row)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
