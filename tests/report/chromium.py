"""Chromium without a window, driven by its DevTools protocol: what the tests and the benchmark of a report need."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

NAMES = ("/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--no-first-run", "--hide-scrollbars",
    "--remote-debugging-port=0", "about:blank",
)  # fmt: skip
PATIENCE = 300  # seconds


def program() -> str | None:
    """The Chromium of this machine, None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Page:
    """A tab: what it was told to do, and the events that it told of since."""

    socket: object
    events: list[dict] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def call(self, method: str, **parameters) -> dict:
        """Calls a method of the protocol; raises RuntimeError with what it says where that fails."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self.socket.recv(timeout=PATIENCE))
            if told.get("id") != number:
                self.events.append(told)
            elif "error" in told:
                raise RuntimeError(f"{method}: {told['error']}")
            else:
                return told["result"]

    def open(self, file: Path) -> float:
        """Opens a file and waits until its completions can be looked at; returns the seconds that took."""
        self.events.clear()
        started = time.perf_counter()
        self.call("Page.navigate", url=file.resolve().as_uri())
        self.wait("document.body && document.body.dataset.ready")
        return time.perf_counter() - started

    def js(self, expression: str) -> object:
        """The value of an expression, once it is there."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{expression}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def wait(self, expression: str) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.js(f"Boolean({expression})"):
            if time.monotonic() > end:
                raise TimeoutError(expression)
            time.sleep(0.02)

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        """The size of the window in CSS pixels."""
        settings = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **settings)

    def dark(self, on: bool) -> None:
        """Whether the page is asked for its dark theme."""
        value = "dark" if on else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def screenshot(self, file: Path) -> None:
        """Writes what the window shows as a PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[str]:
        """Errors of the console, exceptions, and what a policy kept away, since the page was opened."""
        self.js("1")  # so that all events are in
        found = []
        for event in self.events:
            told = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(told["exceptionDetails"]))
            elif event.get("method") == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert", "warning"):
                found.append(str(told["args"]))
            elif event.get("method") == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                found.append(told["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """The addresses that the page asked for, its own left out."""
        self.js("1")
        asked = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in asked[1:] if not url.startswith("data:")]


@contextlib.contextmanager
def page(folder: Path) -> Iterator[Page]:
    """A tab of a Chromium of its own, whose profile lies in a folder."""
    from websockets.sync.client import connect

    command = [program(), f"--user-data-dir={folder}", *FLAGS]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = _port(folder / "DevToolsActivePort", process)
        tabs = httpx.get(f"http://127.0.0.1:{port}/json", timeout=PATIENCE, trust_env=False).json()
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        settings = {"max_size": None, "open_timeout": PATIENCE, "ping_interval": None, "proxy": None}
        with connect(address, **settings) as socket:
            tab = Page(socket)
            for domain in ("Page", "Runtime", "Log", "Network"):
                tab.call(f"{domain}.enable")
            yield tab
    finally:
        process.terminate()
        process.wait()


def _port(file: Path, process: subprocess.Popen) -> int:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        if file.is_file() and (lines := file.read_text().split()):
            return int(lines[0])
        time.sleep(0.05)
    raise RuntimeError(f"{program()}: did not start")
