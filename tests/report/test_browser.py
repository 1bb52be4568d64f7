"""What a browser makes of a report in which everything that others write tries to run: nothing runs, and it can be read.

Needs Chromium (Debian: apt install chromium); skipped where there is none.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from charforge.stages import report
from charforge.testing import browser
from charforge.testing.evaluations import evaluation

pytestmark = pytest.mark.skipif(
    browser.find() is None, reason=f"no headless browser on PATH: {', '.join(browser.NAMES)}"
)

PLANTED = (
    "<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\"><svg onload=alert(1)>"
    "</style><style>*{display:none}</style><a href=\"javascript:document.title='ran'\">go</a>"
    '<iframe src="http://127.0.0.1:9/frame"></iframe><link rel=stylesheet href="http://127.0.0.1:9/x.css">'
    "</title></textarea></details><base href=\"http://127.0.0.1:9/\"><meta http-equiv=refresh content='0;url=data:,x'>"
    "\x1b[31mred\x1b]8;;http://127.0.0.1:9/\x07\x9b2J\x00 \u202etxet\u2066 {{ 7*7 }} {% raw %} ${7*7} "
    "]]> --> &lt;script&gt; \" onmouseover=\"document.title='ran' ' " + "W" * 3000
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Two reports: one in which each text is hostile, one that is only long."""
    folder = tmp_path_factory.mktemp("pages")
    hostile, _ = report.build(
        **evaluation(contestants=3, single=4, multi=2, dialogues=4, planted=PLANTED, passed=False)
    )
    plain, _ = report.build(**evaluation(contestants=8, single=12, multi=3, dialogues=20))
    found = {}
    for name, text in (("hostile", hostile), ("plain", plain)):
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
        found[name] = (folder / f"{name}.html").as_uri()
    return found


@pytest.fixture(scope="module")
def run():
    """Run a coroutine that gets the one browser of this module."""
    with asyncio.Runner() as runner:
        chromium = browser.Browser()
        runner.run(chromium.__aenter__())
        yield lambda look: runner.run(look(chromium))
        runner.run(chromium.__aexit__())


OPEN_ALL = "document.querySelectorAll('details').forEach(one => one.open = true)"


def test_nothing_of_what_was_planted_runs_and_nothing_is_fetched(run, pages):
    async def look(chromium):
        async with chromium.tab(pages["hostile"]) as tab:
            await tab.value(OPEN_ALL)
            await tab.value("document.querySelectorAll('summary, a').forEach(one => one.focus())")
            await asyncio.sleep(0.3)
            tags = await tab.value(
                "JSON.stringify([...new Set([...document.querySelectorAll('*')].map(one => one.tagName.toLowerCase()))])"
            )
            links = await tab.value(
                "JSON.stringify([...document.querySelectorAll('a, use')].map(one => one.getAttribute('href')))"
            )
            styled = await tab.value("document.querySelectorAll('[style]').length")
            title = await tab.value("document.title")
            text = await tab.value("document.body.textContent")
            return tab.requests, tab.complaints, json.loads(tags), json.loads(links), styled, title, text

    requests, complaints, tags, links, styled, title, text = run(look)
    assert requests == [pages["hostile"]]
    assert complaints == []
    assert set(tags) & {"script", "img", "iframe", "link", "base", "object", "form"} == set()
    assert tags.count("style") == 1
    assert links
    assert all(link.startswith("#") for link in links)
    assert styled == 0
    assert title.startswith("Made Up <script>")
    assert "{{ 7*7 }}" in text
    assert not {"\x1b", "\x9b", "\x07", "\u202e", "\u2066"} & set(text)


@pytest.mark.parametrize("name", ["hostile", "plain"])
def test_nothing_is_wider_than_a_phone(run, pages, name):
    async def look(chromium):
        async with chromium.tab(pages[name], width=360, height=740) as tab:
            closed = (await tab.ask("Page.getLayoutMetrics"))["cssContentSize"]["width"]
            await tab.value(OPEN_ALL)
            return closed, (await tab.ask("Page.getLayoutMetrics"))["cssContentSize"]["width"]

    assert run(look) == (360, 360)


def test_without_scripts_the_keyboard_opens_what_is_folded(run, pages):
    async def look(chromium):
        async with chromium.tab(pages["plain"], scripts=False) as tab:
            seen = []
            for key in ("Enter", " "):
                for _ in range(300):
                    await tab.press("Tab")
                    if await tab.node("details:not([open]) > summary:focus"):
                        break
                await tab.press(key)
                seen.append(bool(await tab.node("details[open] > summary:focus")))
                await tab.press(key)
                seen.append(bool(await tab.node("details:not([open]) > summary:focus")))
            return seen

    assert run(look) == [True, True, True, True]


def test_without_scripts_links_reach_their_places_and_open_what_hides_them(run, pages):
    async def look(chromium):
        async with chromium.tab(pages["plain"], scripts=False, prefers_reduced_motion="reduce") as tab:
            reached = []
            for kind in ("answer", "sample", "paragraph", "better"):
                selector = f"a[href^='#{kind}']:not(.skip)"
                number = await tab.node(selector)
                href = dict(
                    zip(
                        *[iter((await tab.ask("DOM.getAttributes", nodeId=number))["attributes"])] * 2,
                        strict=True,
                    )
                )["href"]
                await tab.ask("Page.navigate", url=f"{pages['plain']}{href}")
                await asyncio.sleep(0.1)
                box = await tab.box(":target")
                reached.append((kind, box is not None and -5 <= box[1] < 800 and box[3] > 0))
            return reached

    assert run(look) == [(kind, True) for kind in ("answer", "sample", "paragraph", "better")]


def test_the_skip_link_is_the_first_stop_of_the_keyboard_and_leads_to_the_results(run, pages):
    async def look(chromium):
        async with chromium.tab(pages["plain"], scripts=False) as tab:
            await tab.press("Tab")
            first = bool(await tab.node("a.skip:focus"))
            await tab.press("Enter")
            await asyncio.sleep(0.2)
            return first, bool(await tab.node("#better:target"))

    assert run(look) == (True, True)


def test_dark_and_light_differ_and_both_can_be_read(run, pages):
    async def look(chromium):
        found = {}
        for scheme in ("light", "dark"):
            async with chromium.tab(pages["plain"], prefers_color_scheme=scheme) as tab:
                found[scheme] = await tab.value(CONTRASTS)
        return found

    found = run(look)
    assert found["light"]["paper"] != found["dark"]["paper"]
    for scheme, page in found.items():
        assert page["least"] >= 4.5, (scheme, page)
        assert page["marks"] >= 3, (scheme, page)


# WCAG 2.2: contrast of text (4.5) and of what a plot consists of (3) with what lies behind.
CONTRASTS = """
(() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = color => { const [r, g, b] = rgb(color).slice(0, 3).map(v => { v /= 255; return v <= 0.04045 ? v / 12.92
    : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const behind = one => { for (; one; one = one.parentElement) { const color = getComputedStyle(one).backgroundColor;
    const parts = rgb(color); if (parts.length < 4 || parts[3] > 0) return color; } };
  let least = 99, where = '';
  for (const one of document.querySelectorAll('p, th, td, dt, dd, li, a, summary, h1, h2, h3, h4, span, b, i, blockquote')) {
    if (!one.textContent.trim()) continue;
    const found = contrast(getComputedStyle(one).color, behind(one));
    if (found < least) { least = found; where = one.outerHTML.slice(0, 200); }
  }
  const marks = Math.min(...[...document.querySelectorAll('svg use')].map(one => { const style = getComputedStyle(one);
    return Math.max(contrast(style.fill, behind(one)), contrast(style.stroke, behind(one))); }));
  return {paper: getComputedStyle(document.body).backgroundColor, least, where, marks};
})()
"""


def test_print_shows_what_is_folded_and_fits_the_paper(run, pages):
    async def look(chromium):
        async with chromium.tab(pages["plain"], type="print", width=720) as tab:
            folded = await tab.box("details:not([open]) .inside")
            width = (await tab.ask("Page.getLayoutMetrics"))["cssContentSize"]["width"]
            printed = (await tab.ask("Page.printToPDF"))["data"]
            return folded, width, len(printed), tab.complaints

    folded, width, size, complaints = run(look)
    assert folded is not None
    assert folded[3] > 20
    assert width <= 720
    assert size > 50_000
    assert complaints == []
