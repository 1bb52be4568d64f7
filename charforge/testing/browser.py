"""Headless Chromium over its DevTools protocol, for tests and measurements of pages that we write.

A page is opened from its file; nothing is installed and no driver is needed. Every message of the console and every request of
the page is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "google-chrome", "chromium-browser", "google-chrome-stable")
WAIT = 20.0
"""Seconds until an answer of the browser is given up."""

_KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " ")}


def find() -> str | None:
    """Return the path of an installed Chromium, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One running browser with a profile of its own, ended and removed at the end of the `async with`."""

    async def __aenter__(self) -> Self:
        program = find()
        if program is None:
            raise FileNotFoundError(f"none of {', '.join(NAMES)} is on PATH")
        import aiohttp

        self._folder = tempfile.mkdtemp(prefix="charforge-browser-")
        self._process = await asyncio.create_subprocess_exec(
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            "--remote-debugging-port=0",
            f"--user-data-dir={self._folder}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        port = Path(self._folder) / "DevToolsActivePort"
        async with asyncio.timeout(WAIT):
            while not (port.exists() and len(lines := port.read_text().splitlines()) == 2):
                await asyncio.sleep(0.02)
        self._http = aiohttp.ClientSession()
        self._socket = await self._http.ws_connect(
            f"ws://127.0.0.1:{lines[0]}{lines[1]}", max_msg_size=0, autoping=True
        )
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tabs: dict[str, Tab] = {}
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            await self.ask("Browser.close")
        self._reader.cancel()
        await self._socket.close()
        await self._http.close()
        try:
            async with asyncio.timeout(WAIT):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def ask(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Return the result of a command. Raises RuntimeError with the browser's own words where it refuses."""
        self._number += 1
        number = self._number
        self._waiting[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send_str(json.dumps(message | ({"sessionId": session} if session else {})))
        async with asyncio.timeout(WAIT):
            answer = await self._waiting[number]
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    async def _read(self) -> None:
        async for message in self._socket:
            data = json.loads(message.data)
            if "id" in data:
                self._waiting.pop(data["id"]).set_result(data)
            elif (tab := self._tabs.get(data.get("sessionId", ""))) is not None:
                tab.hear(data["method"], data["params"])

    @contextlib.asynccontextmanager
    async def tab(
        self, address: str, *, scripts: bool = True, width: int = 1000, height: int = 800, **media: str
    ) -> AsyncIterator[Tab]:
        """Open a page and wait until it has loaded. `media`: `type` or features such as prefers_color_scheme."""
        target = (await self.ask("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            await tab.ask(f"{domain}.enable")
        await tab.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        features = [
            {"name": name.replace("_", "-"), "value": value}
            for name, value in media.items()
            if name != "type"
        ]
        await tab.ask("Emulation.setEmulatedMedia", media=media.get("type", ""), features=features)
        if not scripts:
            await tab.ask("Emulation.setScriptExecutionDisabled", value=True)
        await tab.ask("Page.navigate", url=address)
        async with asyncio.timeout(WAIT):
            await tab.loaded.wait()
        yield tab
        await self.ask("Target.closeTarget", targetId=target)
        del self._tabs[session]


class Tab:
    """A page. `complaints` are errors and warnings of the console, `requests` addresses, the page's own first."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.loaded = asyncio.Event()
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def hear(self, method: str, data: dict[str, Any]) -> None:
        """Keep what a message of the browser tells."""
        if method == "Page.loadEventFired":
            self.loaded.set()
        elif method == "Network.requestWillBeSent":
            self.requests.append(data["request"]["url"])
        elif method == "Log.entryAdded":
            self.complaints.append(str(data["entry"]["text"]))
        elif method in {
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Page.javascriptDialogOpening",
        }:
            self.complaints.append(json.dumps(data)[:500])

    async def ask(self, method: str, **parameters: Any) -> Any:
        """Return the result of a command to this page."""
        return await self._browser.ask(method, self._session, **parameters)

    async def value(self, expression: str) -> Any:
        """Return what an expression gives in the page."""
        done = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in done:
            raise RuntimeError(json.dumps(done["exceptionDetails"]))
        return done["result"].get("value")

    async def press(self, key: str) -> None:
        """Press Tab, Enter or the space bar."""
        code, text = _KEYS[key]
        event = {"key": key, "code": key.strip() or "Space", "windowsVirtualKeyCode": code, "text": text}
        await self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **event)
        await self.ask("Input.dispatchKeyEvent", type="keyUp", **event)

    async def node(self, selector: str) -> int:
        """Return the number of the first element that a selector finds, 0 for none; works without scripts."""
        root = (await self.ask("DOM.getDocument", depth=0))["root"]["nodeId"]
        found: int = (await self.ask("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        return found

    async def box(self, selector: str) -> tuple[float, float, float, float] | None:
        """Return left, top, width and height of an element within the window, None where it is not shown."""
        number = await self.node(selector)
        try:
            quad = (await self.ask("DOM.getBoxModel", nodeId=number))["model"]["border"]
        except RuntimeError:
            return None
        return quad[0], quad[1], quad[2] - quad[0], quad[5] - quad[1]
