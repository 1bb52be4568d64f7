"""A drawing is the same bytes each time, has no inline style and no request in it, and its labels are text."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from charforge.report import charts, svg

NASTY = "<script>$x^{2$ {{ 7*7 }} 漢字 \"&' \u202e @3"


def drawing(identity="plot"):
    made = svg.Drawing(identity, 200, left=50, right=20, top=10, bottom=40)
    made.frame((0, 10), (0, 1))
    made.line([(0, 0.1), (5, 0.5), (10, 0.3)], "c0", title=NASTY)
    made.mark(5, 0.5, "c1", "s", title="a square")
    made.mark(7, 0.5, "c2", "P", hollow=True)
    made.text(5, 0.5, NASTY, "tick", middle=True)
    return str(made.markup(title=NASTY, description="d"))


def test_the_same_figure_gives_the_same_bytes():
    assert drawing() == drawing()


def test_colours_are_classes_and_nothing_is_styled_or_fetched():
    text = drawing()
    assert 'class="s-c0"' in text
    assert 'class="f-c1 s-card"' in text
    assert 'fill="none"' in text
    for part in ("style", "#fe", "font-", "url(", "http", "xmlns", "xlink", "<metadata", "<!"):
        assert part not in text


def test_labels_reach_the_page_as_they_are_and_escaped():
    text = drawing()
    assert text.count("&lt;script&gt;$x^{2$ {{ 7*7 }} 漢字") == 3
    assert "<script" not in text
    assert re.search(r'<text x="255" y="85" text-anchor="middle" class="f-tick" dy="0.34em">&lt;script', text)


def test_every_id_begins_with_the_drawings_own_and_every_reference_is_there():
    text = drawing("own")
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert all(identity.startswith("own-") for identity in ids)
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


@pytest.mark.parametrize("marker", [None, "matplotlibrc"])
def test_neither_home_nor_configuration_changes_a_drawing(tmp_path, marker):
    """A folder's own matplotlibrc is somebody else's: it comes with a workspace."""
    if marker:
        (tmp_path / marker).write_text("lines.linewidth: 9\nsvg.fonttype: path\nno.such.thing: 1\n")
    code = (
        "import sys; from charforge.report import svg\n"
        "made = svg.Drawing('plot', 200, left=50, right=20, top=10, bottom=40)\n"
        "made.frame((0, 10), (0, 1)); made.line([(0, 0.1), (10, 0.3)], 'c0'); made.text(5, 0.5, 'x', 'tick')\n"
        "sys.stdout.write(made.markup(title='t', description='d'))\n"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "no" / "such")}
    (tmp_path / "no").write_text("a file, so that no folder can be made in it")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.stderr == ""
    made = svg.Drawing("plot", 200, left=50, right=20, top=10, bottom=40)
    made.frame((0, 10), (0, 1))
    made.line([(0, 0.1), (10, 0.3)], "c0")
    made.text(5, 0.5, "x", "tick")
    assert done.stdout == made.markup(title="t", description="d")


# --- The report's plots ----------------------------------------------------------------------------------------------


def dot(value, low=None, high=None, **more):
    return charts.Dot(value, low, high, "c0", "o", f"at {value}", **more)


def plot(*rows, **more):
    return charts.intervals(
        "p", rows, title="t", description="d", **{"low": 1, "high": 7, "ticks": range(1, 8)} | more
    )


def test_an_interval_is_a_line_with_a_mark_on_it():
    text = plot(charts.Row("values", (dot(5.0, 4.0, 6.0), None)))
    assert text.count("<use") == 1
    assert "<title>at 5.0</title>" in text
    line = re.search(r'd="M ([\d.]+) ([\d.]+) L ([\d.]+) ([\d.]+)" fill="none" stroke-width="1.8"', text)
    left, right = 22 + 8.2 * len("values"), svg.WIDTH - 16
    ends = [left + (value - 1) / 6 * (right - left) for value in (4, 6)]
    assert [float(line[1]), float(line[3])] == pytest.approx(ends, abs=0.1)
    assert line[2] == line[4]


def test_without_an_interval_there_is_only_the_mark():
    text = plot(charts.Row("values", (dot(5.0),)))
    assert 'stroke-width="1.8"' not in text
    assert text.count("<use") == 1


def test_what_is_not_decided_is_hollow():
    row = charts.Row("values", (dot(0.5, -1.0, 2.0, decided=False),))
    text = plot(row, low=-2, high=2, ticks=[-2, 0, 2], zero=0.0, sides=("worse", "better"))
    assert 'class="f-card s-c0"' in text
    assert ">worse</text>" in text
    assert 'class="s-zero"' in text
    assert ">−2</text>" in text


def test_an_interval_beyond_the_axis_ends_with_it():
    text = plot(charts.Row("values", (dot(6.5, 5.0, 9.0),)))
    assert f" {svg.WIDTH - 16:g} " in re.search(r'd="(M [^"]*)" fill="none" stroke-width="1.8"', text)[1]


def test_nothing_to_plot_is_no_plot():
    assert plot(charts.Row("values", (None, None))) == ""
    assert charts.loss_curve([], [], None) == ""


def test_the_kept_epoch_has_a_ring():
    steps = [(float(step), 2 - step / 20) for step in range(1, 21)]
    held = [(0.0, 1.7), (10.0, 1.4), (20.0, 1.5)]
    text = charts.loss_curve(steps, held, 1)
    assert text.count("<use") == 4
    assert charts.loss_curve(steps, held, None).count("<use") == 3
    assert "<desc" in text
    assert "step 10: 1.400" in text


def test_one_constant_loss_still_makes_an_axis():
    assert "<svg" in charts.loss_curve([(1.0, 1.5)], [(0.0, 1.5)], 0)


def test_a_smoothed_line_keeps_its_steps_and_its_mean_of_a_constant():
    line = [(float(n), 2.0) for n in range(9)]
    assert charts.smoothed(line, 5) == line


@pytest.mark.parametrize(
    ("values", "least", "reach"), [([0.2, -0.1], 1.0, 1.0), ([3.2], 1.0, 4.0), ([], 10, 10)]
)
def test_an_axis_around_zero_reaches_equally_far_to_both_sides(values, least, reach):
    found, ticks = charts.symmetric(values, least)
    assert found == reach
    assert ticks == [-tick for tick in reversed(ticks)]
    assert 0 in ticks
