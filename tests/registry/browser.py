"""A headless Chromium, driven over its own DevTools protocol: open a page, wait for text, read the console."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from websockets.sync.client import connect

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-port=0 "
    "--remote-allow-origins=*"
).split()
SECONDS = 60.0


class Page:
    """One tab. `console` holds errors and warnings that pages wrote, `requested` every address that they asked for."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._number = 0
        self.console: list[str] = []
        self.requested: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=SECONDS))
            self._note(message)
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                result: dict[str, Any] = message["result"]
                return result

    def _note(self, message: dict[str, Any]) -> None:
        given = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.console.append(json.dumps(given["exceptionDetails"])[:400])
            case "Runtime.consoleAPICalled" if given["type"] in ("error", "warning"):
                self.console.append(" ".join(str(part.get("value", "")) for part in given["args"]))
            case "Log.entryAdded" if given["entry"]["level"] in ("error", "warning"):
                self.console.append(given["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requested.append(given["request"]["url"])

    def size(self, wide: int, high: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=wide, height=high, deviceScaleFactor=1, mobile=False)

    def open(self, address: str) -> None:
        self.console.clear()
        self.requested.clear()
        self.call("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait_for(self, *texts: str) -> str:
        """The page's visible text, once it holds every one of `texts`."""
        end = time.monotonic() + SECONDS
        while True:
            text = str(self.run("document.body ? document.body.innerText : ''")).replace("\xa0", " ")
            missing = [part for part in texts if part not in text]
            if not missing:
                return text
            assert time.monotonic() < end, f"{missing} not on the page:\n{text[:3000]}\n{self.console}"
            time.sleep(0.1)

    def press(self, text: str) -> None:
        """Click at the innermost element that shows this text, or is called so."""
        called = "[one.innerText?.trim(), one.getAttribute('aria-label')]"
        one = f"[...document.querySelectorAll('*')].filter(one => {called}.includes({json.dumps(text)})).at(-1)"
        box = self.run(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({one}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def screenshot(self, target: Path, part: str = "") -> None:
        """The whole page, or the element that a selector finds first."""
        found = f"document.querySelector({json.dumps(part)}).getBoundingClientRect()"
        box = "(({x, y, width, height}) => ({x, y: y + scrollY, width, height, scale: 1}))"
        more = {"clip": self.run(f"{box}({found})")} if part else {}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, **more)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(base64.b64decode(shot["data"]))


def find_chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Page]:
    """A browser with an empty profile, and its one tab."""
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        note = profile / "DevToolsActivePort"
        end = time.monotonic() + SECONDS
        while not note.exists() or len(note.read_text().split()) < 2:
            assert process.poll() is None, f"{program} ended with {process.returncode}"
            assert time.monotonic() < end, "the browser did not open its debugging port"
            time.sleep(0.05)
        port = note.read_text().split()[0]
        tabs = requests.get(f"http://127.0.0.1:{port}/json/list", timeout=SECONDS).json()
        tab = next(tab for tab in tabs if tab["type"] == "page")
        with connect(tab["webSocketDebuggerUrl"], max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(20)
