"""Templates are a stranger's text: they print their values, and every way to do more is an error with its line."""

from __future__ import annotations

import pytest

from charforge.errors import CharForgeError
from charforge.templates import literals, render


def failure(source: str, /, **values: object) -> str:
    with pytest.raises(CharForgeError) as caught:
        render(source, "prompts/x.j2", **values)
    return caught.value.render()


def test_values_are_printed_as_they_are():
    assert render("Be {{ name }}.\n", "x.j2", name="<b> & 'c' {{ d }}") == "Be <b> & 'c' {{ d }}."


def test_blocks_leave_no_empty_lines():
    assert (
        render(
            "{% for t in turns %}\n{{ t.role }}: {{ t.content }}\n{% endfor %}\nEnd\n",
            "x.j2",
            turns=[{"role": "A", "content": "b"}],
        )
        == "A: b\nEnd"
    )


def test_one_source_under_two_names_is_called_by_each():
    for name in ("a.j2", "b.j2"):
        with pytest.raises(CharForgeError, match=f"^{name}:1:"):
            render("{{ missing }}", name)


def test_an_undefined_variable_names_template_line_and_variable():
    assert failure("one\ntwo {{ nmae }}\n", name="B", until="1827") == (
        "error: prompts/x.j2:2: 'nmae' is undefined\nhint: a prompt of this kind is given: name, until"
    )


def test_an_undefined_field_names_template_line_and_field():
    assert failure("{{ t.rol }}", t={"role": "A"}) == (
        "error: prompts/x.j2:1: 'dict object' has no attribute 'rol'"
    )


def test_a_syntax_error_names_template_and_line():
    assert failure("fine\n{% if x %}\nfine\n") == (
        "error: prompts/x.j2:3: Unexpected end of template. Jinja was looking for the following tags: 'elif' or 'else'"
        " or 'endif'. The innermost block that needs to be closed is 'if'."
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% include 'y' %}", "1: 'include' cannot be used in a prompt template"),
        ("\n{% import 'y' as y %}", "2: 'import' cannot be used in a prompt template"),
        ("{% extends 'y' %}", "1: 'extends' cannot be used in a prompt template"),
        ("{% macro m() %}{% endmacro %}", "1: 'macro' cannot be used in a prompt template"),
        ("{% for i in range(1000000000) %}{% endfor %}", "1: calls cannot be used in a prompt template"),
        ("{{ ''.join(x) }}", "1: calls cannot be used in a prompt template"),
        ("{{ x.__class__ }}", "1: access to attribute '__class__' of 'str' object is unsafe."),
        ("{{ 'a' * 1000000000 }}", "1: '*' is for small numbers only"),
        ("{{ '%999999999d' % 1 }}", "1: '%' is for small numbers only"),
        ("{{ x + x }}", "1: '+' is for small numbers only"),
        ("{{ x | join(x) | join(x) }}", "1: 'join' makes more than 200,000 characters"),
        ("{% set y = x ~ x %}", "1: 'set' cannot be used in a prompt template"),
        ("{{ 9 ** 9 }}", "1: '**' is for small numbers only"),
        ("{{ x | center(1000000000) }}", "1: No filter named 'center'."),
        ("{{ x | map('upper') }}", "1: No filter named 'map'."),
        ("{{ 1 / 0 }}", "1: division by zero"),
        ("{% for a in x %}{% for b in x %}{% for c in x %}{{ x }}{% endfor %}{% endfor %}{% endfor %}", None),
    ],
)
def test_what_a_prompt_does_not_need_is_refused(source, message):
    text = failure(source, x="v" * 100)
    if message is None:
        assert text == "error: prompts/x.j2: the template prints more than 200,000 characters"
    else:
        assert text.splitlines()[0] == f"error: prompts/x.j2:{message}"


def test_a_huge_template_is_refused():
    assert (
        failure("x" * 100_001)
        == "error: prompts/x.j2: the template has 100,001 characters, the limit is 100,000"
    )


def test_deep_nesting_is_an_error_not_a_crash():
    assert failure("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}").startswith("error: prompts/x.j2")


def test_literals_are_the_words_of_the_template_itself():
    text = literals(
        "Write as {{ name }} did.\n{% if a %}Be {{ b }} brief.{% else %}Be long.{% endif %}", "x.j2"
    )
    assert text.split() == ["Write", "as", "did.", "Be", "brief.", "Be", "long."]
    assert "as \n" in text
