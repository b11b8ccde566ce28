"""A headless Chromium, spoken to over its debugging pipe: JSON messages that end in a zero byte. No driver is needed."""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import time

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def find_browser():
    """The path of a Chromium, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a headless browser without network.

    Attributes:
        said: Everything the page or the browser complained about.
        requested: Every address the page asked for.
    """

    def __init__(self, executable, profile, *, wait_s=60):
        self._wait_s = wait_s
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # the browser reads from descriptor 3 and writes to 4; moved up first, so that neither takes the other's place
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_browser, from_browser)]
        silent = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
        self._process = os.posix_spawn(
            executable,
            [
                executable,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--disable-dev-shm-usage",
                f"--user-data-dir={profile}",
                "--remote-debugging-pipe",
            ],
            os.environ,
            file_actions=[*silent, *((os.POSIX_SPAWN_DUP2, end, place) for place, end in enumerate(ends, 3))],
        )
        for end in (to_browser, from_browser, *ends):
            os.close(end)
        self._ids = itertools.count(1)
        self._buffer = b""
        self._session = None
        self.said, self.requested = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._session = None
        self.call("Browser.close")
        os.waitpid(self._process, 0)
        os.close(self._out)
        os.close(self._in)

    def call(self, method, **params):
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == number:
                assert "error" not in found, found
                return found["result"]

    def open(self, path, *, width=1200, height=900, scheme="light"):
        """Load a file at a size and a colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=path.as_uri())
        until = time.monotonic() + self._wait_s
        while self.value("document.readyState") != "complete":
            assert time.monotonic() < until, "the page does not finish loading"

    def value(self, expression):
        """What an expression is in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, path):
        """The whole page as a picture."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _next(self):
        until = time.monotonic() + self._wait_s
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(until - time.monotonic(), 0))
            assert ready, "the browser does not answer"
            piece = os.read(self._in, 1 << 20)
            assert piece, "the browser has gone"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        found = json.loads(message)
        method, params = found.get("method"), found.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.said.append(params["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.said.append(str([argument.get("value") for argument in params["args"]]))
        elif method == "Log.entryAdded":
            self.said.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        return found
