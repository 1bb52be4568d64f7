"""Canonical JSON and digests are a contract: these values may never change."""

from __future__ import annotations

import json
import math

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from charforge.engine.digest import Action, canonical, jsonl, of_bytes

PARAMS = {
    "model": "embedded/x",
    "temperature": 0.7,
    "stop": None,
    "text": "Grüße, Ωμέγα 🎼",
    "list": [1, 2.5, True, None],
}
INPUTS = {"profile": "0" * 64, "prompt": "f" * 64}
ACTION = Action("scene", 3, PARAMS, INPUTS)

# -- fixed vectors ---------------------------------------------------------------------------------------------------


def test_a_blobs_digest_is_what_sha256sum_says():
    assert of_bytes(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert of_bytes("Grüße\n".encode()) == "b1de61b8108f15d9913e0fa2e6371ed737fbe2be84e63a89ca8ae7a370322371"


def test_the_smallest_actions_digest():
    # printf 'charforge/action/1\n{"inputs":{},"kind":"scene","params":{},"version":1}' | sha256sum
    assert (
        Action("scene", 1, {}, {}).digest
        == "e679fa16121727ee04be09ba96246f6916e5d42c48b4df5844b365c886a1775f"
    )


def test_a_full_actions_digest_and_canonical_form():
    assert ACTION.canonical.decode() == (
        '{"inputs":{"profile":"' + "0" * 64 + '","prompt":"' + "f" * 64 + '"},"kind":"scene",'
        '"params":{"list":[1,2.5,true,null],"model":"embedded/x","stop":null,"temperature":0.7,'
        '"text":"Grüße, Ωμέγα 🎼"},"version":3}'
    )
    assert ACTION.digest == "4b588d707708d804ae5bb1efdee704057e59190e8b6f0dff5ad4cc6df3027a8a"


# -- what takes part -------------------------------------------------------------------------------------------------


def test_key_order_does_not_matter():
    params = dict(reversed(PARAMS.items()))
    inputs = dict(reversed(INPUTS.items()))
    assert list(params) != list(PARAMS)
    assert Action("scene", 3, params, inputs).digest == ACTION.digest


@pytest.mark.parametrize(
    "other",
    [
        Action("scenes", 3, PARAMS, INPUTS),
        Action("scene", 4, PARAMS, INPUTS),
        Action("scene", 3, {**PARAMS, "temperature": 0.8}, INPUTS),
        Action("scene", 3, {**PARAMS, "stop": []}, INPUTS),
        Action("scene", 3, {key: value for key, value in PARAMS.items() if key != "stop"}, INPUTS),
        Action("scene", 3, {**PARAMS, "list": [2.5, 1, True, None]}, INPUTS),
        Action("scene", 3, {**PARAMS, "seed": None}, INPUTS),
        Action("scene", 3, PARAMS, {**INPUTS, "prompt": "e" * 64}),
        Action("scene", 3, PARAMS, {"profile": INPUTS["prompt"], "prompt": INPUTS["profile"]}),
        Action("scene", 3, PARAMS, {"profile": "0" * 64}),
    ],
)
def test_every_part_participates(other):
    assert other.digest != ACTION.digest


def test_an_action_is_not_named_like_a_blob_of_the_same_bytes():
    assert of_bytes(ACTION.canonical) != ACTION.digest


@pytest.mark.parametrize(
    ("one", "other"), [(1, "1"), (1, True), (0, False), (0, None), ("", None), ([], {}), ([], None)]
)
def test_json_values_that_python_or_people_confuse_differ(one, other):
    assert canonical({"x": one}) != canonical({"x": other})


def test_1_and_1_0_are_one_number_as_in_json():
    assert canonical([1, -0.0, 100]) == canonical([1.0, 0, 1e2]) == b"[1,0,100]"


def test_composed_and_decomposed_letters_differ():
    # No Unicode normalisation: a model sees the difference.
    assert canonical("\u00e9") != canonical("e\u0301")


# -- RFC 8785 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        # RFC 8785, appendix B.
        (0.0, "0"),
        (-0.0, "0"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (9007199254740992.0, "9007199254740992"),
        (295147905179352830000.0, "295147905179352830000"),
        (9.999999999999997e22, "9.999999999999997e+22"),
        (1e23, "1e+23"),
        (1e21, "1e+21"),
        (999999999999999700000.0, "999999999999999700000"),
        (0.000001, "0.000001"),
        (9.999999999999997e-7, "9.999999999999997e-7"),
        (333333333.3333332, "333333333.3333332"),
        (-0.0000033333333333333333, "-0.0000033333333333333333"),
        # Ours.
        (2.0e-5, "0.00002"),
        (1e-7, "1e-7"),
        (4.5, "4.5"),
    ],
)
def test_numbers_are_written_as_ecmascript_writes_them(number, text):
    assert canonical(number).decode() == text


def test_the_rfcs_own_example():
    # RFC 8785, section 3.2.2 and 3.2.3.
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    assert canonical(value).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_keys_are_sorted_by_utf_16_not_by_code_point():
    # RFC 8785, section 3.2.3: an emoji's surrogates come before the ligature U+FB33.
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    found = list(json.loads(canonical(dict.fromkeys(keys, 0))))
    assert found == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


# Integral floats from 2**53 to 10**21 are left out: they are written in digits, which read back as an integer that no
# double holds exactly, and canonical() takes no such integer.
numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False).filter(
    lambda number: not 2**53 <= abs(number) < 1e21
)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(values)
def test_the_quick_way_gives_the_bytes_of_the_reference_implementation(value):
    assert canonical(value) == rfc8785.dumps(value)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.floats(1e-5, 1e-3) | st.floats(1e14, 1e17))
def test_the_quick_way_knows_which_numbers_it_may_write(number):
    assert canonical([number]) == rfc8785.dumps([number])


@given(values)
def test_canonical_json_says_the_same_to_any_reader(value):
    assert json.loads(canonical(value)) == value


@given(values)
def test_canonical_json_of_canonical_json_is_itself(value):
    assert canonical(json.loads(canonical(value))) == canonical(value)


@given(values)
def test_canonical_json_has_no_white_space_and_only_the_escapes_json_needs(value):
    def plain(value):
        if isinstance(value, dict):
            keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
            return "{" + ",".join(f"{plain(key)}:{plain(value[key])}" for key in keys) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(plain, value)) + "]"
        if isinstance(value, float):
            return canonical(value).decode()  # held to the RFC's table above
        return json.dumps(value, ensure_ascii=False)

    assert canonical(value).decode() == plain(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_comes_back_to_the_last_bit(number):
    back = float(canonical(number))
    assert back == number
    assert math.copysign(1, back) == math.copysign(1, number) or number == 0


# -- what JSON cannot say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, "not canonical JSON: nan is not representable in JCS"),
        (math.inf, "not canonical JSON: inf is not representable in JCS"),
        (2**53, "not canonical JSON: 9007199254740992 exceeds safe integer domain for JSON floats"),
        (-(2**53), "not canonical JSON: -9007199254740992 exceeds safe integer domain for JSON floats"),
        ("a\ud800b", "not canonical JSON: input contains non-UTF-8 codepoints"),
        ({1: "one"}, "not canonical JSON: object keys must be strings"),
        ({None: "none"}, "not canonical JSON: object keys must be strings"),
        ({"a": {1, 2}}, "not canonical JSON: unsupported type: <class 'set'>"),
        ([b"bytes"], "not canonical JSON: unsupported type: <class 'bytes'>"),
    ],
)
def test_what_json_cannot_say_is_refused(value, text):
    with pytest.raises(ValueError) as caught:
        canonical(value)
    assert str(caught.value) == text


def test_a_lone_surrogate_in_a_key_is_refused():
    with pytest.raises(ValueError) as caught:
        canonical({"\ud800": 1})
    assert str(caught.value).startswith("not canonical JSON: ")


def test_an_action_that_json_cannot_say_has_no_digest():
    with pytest.raises(ValueError):
        _ = Action("scene", 1, {"temperature": math.nan}, {}).digest


def test_jsonl_is_one_canonical_line_a_record_in_the_order_given():
    assert jsonl([{"id": "b", "a": 1.0}, {"id": "a"}]) == b'{"a":1,"id":"b"}\n{"id":"a"}\n'
    assert jsonl([]) == b""
