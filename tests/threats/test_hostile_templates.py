"""Templates that want more than to say something: out of the sandbox, never to end, or all the memory there is."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from charforge.errors import CharForgeError
from charforge.templates import render

TEXT = "x" * 5_000
ITEMS = list(range(100))

OVER = "the template takes more than 1,000,000 steps"
DEEP = "the template is nested too deeply"


def looped(inner):
    """A million times."""
    return "{% for a in l %}" * 3 + inner + "{% endfor %}" * 3


def failure(source):
    with pytest.raises(CharForgeError) as raised:
        render(source, "x.j2", x=TEXT, l=ITEMS, big="y" * 10_000_000, d={"a": 1})
    return raised.value.message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("{% for a in x %}" * 6 + "{% endfor %}" * 6, f"x.j2:1: {OVER}", id="prints nothing"),
        pytest.param(looped("{% if 'z' in big %}{% endif %}"), f"x.j2:1: {OVER}", id="searches"),
        pytest.param(looped("{% if big == big|trim %}{% endif %}"), f"x.j2:1: {OVER}", id="compares"),
        pytest.param(looped("{% if big[1:] %}{% endif %}"), f"x.j2:1: {OVER}", id="copies"),
        pytest.param(looped("{% if x ~ x ~ x %}{% endif %}"), f"x.j2:1: {OVER}", id="joins"),
        pytest.param(looped("{% if l|sort|unique %}{% endif %}"), f"x.j2:1: {OVER}", id="sorts"),
        pytest.param(
            "{% for a in l recursive %}{% endfor %}",
            "x.j2:1: 'for' cannot be used in a prompt template",
            id="calls itself",
        ),
        pytest.param("{% for a in range(10**9) %}{% endfor %}", None, id="range"),
    ],
)
def test_a_loop_without_end_ends(source, message):
    assert failure(source) == (message or "x.j2:1: calls cannot be used in a prompt template")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(
            "{% filter upper %}" + "{% for a in x %}" * 4 + "{{ x }}" + "{% endfor %}" * 4 + "{% endfilter %}",
            "x.j2:1: 'filter' cannot be used in a prompt template",
            id="gathered by a filter",
        ),
        pytest.param(
            "{% if " + "~".join(["big"] * 100) + " %}{% endif %}",
            "x.j2:1: '~' makes more than 200,000 characters",
            id="~",
        ),
        pytest.param(
            "{% for a in l %}{{ big }}{% endfor %}",
            "x.j2: the template prints more than 200,000 characters",
            id="printed",
        ),
        pytest.param(
            "{{ 1|round(10**9) }}", "x.j2:1: '**' is for small numbers only", id="a number to the power"
        ),
        pytest.param(
            "{{ 1.5|round(100000000, 'ceil') }}",
            "x.j2:1: 'round' is to at most 20 places",
            id="a filter that counts digits",
        ),
        pytest.param("{{ '{:>1000000000}'.format(1) }}", "x.j2:1: calls cannot be used in a prompt template",
                     id="format"),
        pytest.param("{{ x|first * 1000000000 }}", "x.j2:1: '*' is for small numbers only", id="*"),
    ],
)  # fmt: skip
def test_a_gigabyte_of_output_is_never_made(source, message):
    assert failure(source) == message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("{% for a in x %}" * 21 + "{% endfor %}" * 21, f"x.j2: {DEEP}", id="21 loops"),
        pytest.param("{% if x %}" * 150 + "{% endif %}" * 150, f"x.j2:1: {DEEP}", id="150 ifs"),
        pytest.param("{{ x" + "[0]" * 20_000 + " }}", f"x.j2:1: {DEEP}", id="items"),
        pytest.param("{{ " + "+".join(["1"] * 20_000) + " }}", f"x.j2:1: {DEEP}", id="a sum"),
        pytest.param("{{ x" + "|upper" * 15_000 + " }}", f"x.j2:1: {DEEP}", id="filters"),
        pytest.param("{{ " + "not " * 20_000 + "x }}", f"x.j2: {DEEP}", id="not"),
        pytest.param(
            "{% if x %}" + "{% elif x %}" * 7_000 + "{% endif %}",
            "x.j2:1: the template is too long",
            id="elif",
        ),
        pytest.param(
            "{{ " + "9" * 50_000 + " }}",
            "x.j2: Exceeds the limit (4300 digits) for integer string conversion",
            id="digits",
        ),
    ],
)
def test_what_python_cannot_compile_is_an_error_and_no_crash(source, message):
    assert failure(source) == message


@pytest.mark.parametrize(
    "source",
    [
        "{{ x.__class__ }}",
        "{{ x['__class__'] }}",
        "{{ d.__init__.__globals__ }}",
        "{{ x.format }}",
        "{{ x['format'] }}",
        "{{ d.items }}",
        "{{ [x.upper]|join }}",
        "{{ x|attr('__class__') }}",
        "{{ l|sort(attribute='__class__') }}",
        "{{ l|map(attribute='__class__')|list }}",
        "{{ self }}",
        "{{ self._TemplateReference__context }}",
        "{% for a in l %}{{ loop.__init__ }}{% endfor %}",
        "{% for a in l %}{{ loop.cycle }}{% endfor %}",
        "{% block a %}{{ self.a }}{% endblock %}",
        "{{ caller }}",
        "{% autoescape true %}{% endautoescape %}",
        "{{ lipsum }}{{ cycler }}",
        "{{ '\\ud800' }}",
    ],
)
def test_nothing_but_values_can_be_reached(source):
    assert failure(source).startswith("x.j2:1: ")


def test_no_address_in_memory_is_printed():
    """Else a prompt, and with it a call, would be another one in each process."""
    text = render("{{ l|reverse }} {{ l|unique }} {{ x|reverse }}", "x.j2", x="ab", l=[1, 2])
    assert text == "[2, 1] [1, 2] ba"


def test_the_worst_that_passes_ends_within_little_memory():
    """All that is left to a template is to spend its steps on the dearest things there are."""
    source = looped("{% if big|wordcount + big|title|wordcount %}{% endif %}")
    code = (
        "import sys\nfrom charforge.templates import render\n"
        f"try: render({source!r}, 'x.j2', l=list(range(100)), big='y ' * 100_000)\n"
        "except Exception as error: print(error)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29)),
    )
    assert ran.stdout == f"x.j2:1: {OVER}\n"
