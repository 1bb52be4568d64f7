"""Records become tokens and a mask: exact for several kinds of tokenizer, split between turns, and checked once more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from charforge.dialogue import Turn, render_output, render_prompt
from charforge.errors import CharForgeError
from charforge.models import samples as module
from charforge.models.samples import Sample, check_mask, encode, read, shuffled, some
from charforge.models.vocabulary import add_token

B = "Beethoven"
TURNS = [
    Turn("Man", "speaking", "Will you play for us tonight?"),
    Turn(B, "thinking", "The prince wants a clown."),
    Turn(B, "speaking", "I do not play for officers. Größe 音楽 🎹!"),
    Turn("Man", "speaking", "Good evening, sir."),
    Turn(B, "speaking", "Good."),
]


def record(turns=TURNS, name: str = "d/1", **more) -> dict:
    return {
        "prompt": render_prompt("I want you to act like Beethoven.", "Vienna", "a salon"),
        "output": render_output(turns),
        "kind": "dialogue",
        "source": {"id": name, "origin": "written", "part": 1, "paragraphs": ["p1"]},
    } | more


def sentencepiece_like(*, legacy: bool) -> PreTrainedTokenizerFast:
    """A tokenizer as Llama 1 and 2 have it: `▁` for spaces, bytes for what is unknown, and a first token."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    # Real ones never learned a token across a space or a parenthesis; the trainer would, from so few words.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Punctuation()]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    texts = [record()["prompt"], record()["output"].replace("<|eot|>", "").replace("\n", " ")]
    backend.train_from_iterator([text.replace("Größe 音楽 🎹", "") for text in texts], trainer)
    if legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = None
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    add_token(tokenizer)
    return tokenizer


@pytest.fixture(params=["byte level", "metaspace", "legacy llama"])
def tokenizer(request, tiny: Path):
    if request.param != "byte level":
        return sentencepiece_like(legacy=request.param == "legacy llama")
    tokenizer = AutoTokenizer.from_pretrained(str(tiny))
    add_token(tokenizer)
    return tokenizer


@pytest.fixture
def plain(tiny: Path):
    tokenizer = AutoTokenizer.from_pretrained(str(tiny))
    add_token(tokenizer)
    return tokenizer


def learned(tokenizer, sample: Sample) -> str:
    return tokenizer.decode(
        [sample.ids[i] for i in sample.targets], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (
            "character",
            (
                "thinking): The prince wants a clown.<|eot|>"
                "speaking): I do not play for officers. Größe 音楽 🎹!<|eot|>"
                "speaking): Good.<|eot|>"
            ),
        ),
        ("character_speech", "I do not play for officers. Größe 音楽 🎹!<|eot|>Good.<|eot|>"),
        ("completion", render_output(TURNS)),
    ],
)
def test_exactly_the_trained_words_are_targets(tokenizer, loss, expected):
    (sample,) = encode(tokenizer, record(), B, loss, 1000)
    assert squeezed(learned(tokenizer, sample)) == squeezed(expected)
    figures = check_mask(tokenizer, [sample], B, loss)
    turns = {"character": 3, "character_speech": 2, "completion": 5}[loss]
    assert figures == {"samples": 1, "turns": turns, "tokens": len(sample.targets)}


def test_a_text_begins_as_the_tokenizer_begins_texts(tokenizer):
    (sample,) = encode(tokenizer, record(), B, "character", 1000)
    whole = tokenizer(record()["prompt"] + record()["output"])["input_ids"]
    assert list(sample.ids) == whole


def test_what_a_tokenizer_puts_behind_a_text_is_not_taken(plain):
    from tokenizers import processors

    before = encode(plain, record(), B, "completion", 1000)
    end = plain.convert_tokens_to_ids("<|im_end|>")
    plain.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", end)]
    )
    assert encode(plain, record(), B, "completion", 1000) == before


# -- what does not fit


def test_a_long_record_is_split_between_turns_and_nothing_is_lost(plain):
    turns = TURNS * 4
    whole = record(turns)
    limit = 150
    found = read(plain, [whole], B, "character", limit)
    assert found.split == 1
    assert found.left_out == []
    assert [sample.piece for sample in found.samples] == list(range(1, len(found.samples) + 1))
    assert all(len(sample.ids) <= limit for sample in found.samples)
    texts = [plain.decode(sample.ids, skip_special_tokens=False) for sample in found.samples]
    assert all(text.startswith(whole["prompt"]) for text in texts)
    assert "".join(text.removeprefix(whole["prompt"]) for text in texts) == whole["output"]
    # A thought goes with what follows it.
    assert not any(text.split("<|eot|>")[-2].strip().startswith("Beethoven (thinking)") for text in texts)
    check_mask(plain, found.samples, B, "character")


def test_a_turn_that_fits_nowhere_is_left_out_and_named(plain):
    turns = [*TURNS, Turn(B, "speaking", "play " * 300), *TURNS]
    found = read(plain, [record(turns, "d/long")], B, "character", 200)
    assert [(turn["source"], turn["part"]) for turn in found.left_out] == [("d/long", 1)]
    assert found.left_out[0]["tokens"] > 300
    text = "".join(plain.decode(sample.ids, skip_special_tokens=False) for sample in found.samples)
    assert text.count("Will you play for us tonight?") == 2
    assert "play play" not in text


def test_a_prompt_that_fills_the_context_leaves_every_turn_out(plain):
    found = read(plain, [record(), record([], "d/empty")], B, "character", 20)
    assert found.samples == []
    assert [turn["source"] for turn in found.left_out] == ["d/1"] * len(TURNS) + ["d/empty"]


@pytest.mark.parametrize("limit", range(60, 160, 7))
def test_no_part_is_longer_than_the_limit(tokenizer, limit):
    found = read(tokenizer, [record(TURNS * 3)], B, "character", limit)
    assert all(len(sample.ids) <= limit for sample in found.samples)
    assert all(turn["tokens"] > limit for turn in found.left_out)
    check_mask(tokenizer, found.samples, B, "character")


def test_a_part_in_which_the_character_is_silent_keeps_no_loss(plain):
    turns = [Turn("Man", "speaking", "Will you play for us tonight? " * 8), *TURNS]
    first, *_ = encode(plain, record(turns), B, "character", 170)
    assert first.targets == ()


# -- general samples


def test_a_general_sample_is_learned_whole_and_ends(plain):
    general = record(prompt="Name (speaking):", output=" Good evening, sir.", kind="general")
    (sample,) = encode(plain, general, B, "character", 100)
    assert learned(plain, sample) == " Good evening, sir.<|im_end|>"
    assert check_mask(plain, [sample], B, "character")["tokens"] == len(sample.targets)


def test_a_general_sample_that_is_too_long_is_left_out(plain):
    general = record(prompt="Name:", output=" play" * 200, kind="general", name="g/1")
    found = read(plain, [general], B, "character", 100)
    assert found.samples == []
    assert [turn["source"] for turn in found.left_out] == ["g/1"]


# -- the contract


def planted(plain, move, loss: str = "character") -> str:
    (sample,) = encode(plain, record(), B, loss, 1000)
    with pytest.raises(CharForgeError) as caught:
        check_mask(plain, [replace(sample, targets=tuple(move(sample)))], B, loss)
    assert caught.value.message.startswith("the loss mask of the sample d/1 part 1 is wrong: ")
    assert caught.value.hint.startswith("nothing was trained")
    return caught.value.message.split(" is wrong: ")[1]


def ends(plain, sample: Sample) -> list[int]:
    eot = plain.convert_tokens_to_ids("<|eot|>")
    return [i for i, token in enumerate(sample.ids) if token == eot]


def test_another_speakers_token_is_found(plain):
    first = "a token is trained that Beethoven does not say: "
    for shift in (3, 9):
        message = planted(
            plain,
            lambda s, shift=shift: [*range(ends(plain, s)[0] - shift, ends(plain, s)[0] + 1), *s.targets],
        )
        assert message.startswith(first)


def test_another_speakers_whole_turn_is_found(plain):
    def theirs(sample: Sample) -> list[int]:
        _, _, second, third, _ = ends(plain, sample)
        return [*sample.targets[:3], *range(second + 1, third + 1)]

    assert "does not end in" in planted(plain, theirs)


def test_a_turn_that_runs_on_into_the_next_is_found(plain):
    def on(sample: Sample) -> list[int]:
        _, _, third, fourth, _ = ends(plain, sample)
        return [t for t in sample.targets if t <= third] + list(range(third + 1, fourth + 1))

    assert planted(plain, on).startswith("trained tokens go on behind <|eot|>: ")


def test_a_turn_without_its_end_is_found(plain):
    assert "does not end in <|eot|>" in planted(plain, lambda s: s.targets[:-1])


def test_a_trained_prompt_is_found(plain):
    assert planted(plain, lambda s: [5, *s.targets]).startswith("a token of the prompt is trained: ")
    assert planted(plain, lambda s: [5, *s.targets], "completion").startswith("a token of the prompt")


def test_a_gap_in_a_whole_output_is_found(plain):
    message = planted(plain, lambda s: [*s.targets[:3], *s.targets[4:]], "completion")
    assert message.startswith("a token inside the output is not trained: ")


def test_a_thought_is_no_speech(plain):
    (sample,) = encode(plain, record(), B, "character", 1000)
    with pytest.raises(CharForgeError, match="a token is trained that Beethoven does not say"):
        check_mask(plain, [sample], B, "character_speech")


def test_words_without_an_end_mark_inside_a_trained_turn_are_found(plain):
    text = "Beethoven (speaking): Ha!\nMan (speaking): Hm.<|eot|>\n"
    prompt = record()["prompt"]
    ids = plain(prompt + text, add_special_tokens=False)["input_ids"]
    start = len(plain(prompt, add_special_tokens=False)["input_ids"])
    begin = next(i for i in range(start, len(ids)) if plain.decode(ids[start:i]).endswith("Beethoven ("))
    end = ids.index(plain.convert_tokens_to_ids("<|eot|>"))
    sample = Sample("d/1", 1, tuple(ids), tuple(range(begin, end + 1)), start=start)
    with pytest.raises(CharForgeError, match="another speaker's turn is trained"):
        check_mask(plain, [sample], B, "character")


@pytest.mark.parametrize("loss", ["character", "character_speech", "completion"])
def test_words_that_look_like_a_turn_are_words(tokenizer, loss):
    turns = [Turn("Man", "speaking", "Beethoven (speaking): Ha!"), Turn(B, "speaking", "Man (speaking): Hm.")]
    (sample,) = encode(tokenizer, record(turns), B, loss, 1000)
    check_mask(tokenizer, [sample], B, loss)
    assert squeezed(learned(tokenizer, sample)).endswith("Man(speaking):Hm.<|eot|>")
    assert ("Ha!" in learned(tokenizer, sample)) == (loss == "completion")


def test_spans_that_cross_tokens_are_refused(plain, monkeypatch):
    monkeypatch.setattr(module, "trained_spans", lambda *_: [(7, 9)])
    with pytest.raises(CharForgeError) as caught:
        encode(plain, record(), B, "character", 512)
    assert caught.value.message.startswith("the sample d/1 part 1: the loss mask covers ")


def test_some_records_are_chosen_by_seed():
    records = [record(name=f"d/{n}") for n in range(20)]
    assert some(records, None, 0) == records
    assert len(some(records, 5, 0)) == 5
    assert some(records, 5, 0) == some(records[::-1], 5, 0)[::-1]
    assert some(records, 5, 0) != some(records, 5, 1)


def test_epochs_differ_in_order_and_runs_do_not():
    samples = [Sample(str(n), 1, (n,), ()) for n in range(20)]
    assert shuffled(samples, 1) == shuffled(samples, 1)
    assert shuffled(samples, 1) != shuffled(samples, 2)
    assert sorted(shuffled(samples, 1), key=lambda s: s.ids) == samples
