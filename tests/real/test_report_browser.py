"""The report in a real browser: headless Chromium, driven over its own pipe (the DevTools protocol).

Nothing may be loaded, nothing may be complained about, every plot must have a name and a description, and what the
page offers (sorting, filtering, values under the pointer, dark, print, no script, a narrow screen) must work.
"""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from commbench.cli import group

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
PATIENCE = 60.0  # seconds for one answer on a busy machine
CALM = {"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
        "--disable-background-networking", "--disable-extensions", "--disable-sync", "--hide-scrollbars"}  # fmt: skip


class Browser:
    """One page. `events` are those that came since the page was opened."""

    def __init__(self, program: str, folder: Path) -> None:
        # Chromium reads commands from descriptor 3 and writes answers to 4, each with a NUL at its end.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (*os.pipe(), *os.pipe())]
        theirs_in, self._to, self._from, theirs_out = ends

        def as_it_expects() -> None:
            os.dup2(theirs_in, 3)
            os.dup2(theirs_out, 4)

        with (folder.parent / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, *sorted(CALM), "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(3, 4),
                preexec_fn=as_it_expects,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        self._left = b""
        self._count = itertools.count(1)
        self._session = ""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility", "DOM"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        self._session = ""
        self.ask("Browser.close")  # with all processes of its own
        self._process.wait(PATIENCE)
        os.close(self._to)
        os.close(self._from)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to one command; events that come before it are kept."""
        number = next(self._count)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (found := self._next()).get("id") != number:
            self.events.append(found)
        assert "error" not in found, (method, found["error"])
        result: dict[str, Any] = found["result"]
        return result

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._from], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"no answer from the browser in {PATIENCE:.0f} s"
            chunk = os.read(self._from, 1 << 20)
            assert chunk, "the browser ended"
            self._left += chunk
        message, _, self._left = self._left.partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        return told

    def open(self, path: Path) -> None:
        """Loads the page anew and waits until it is there."""
        self.events.clear()
        self.ask("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        """The value of an expression on the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def complaints(self) -> list[Any]:
        """Errors, warnings and refusals, whoever they come from."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Network.loadingFailed")
        return [event["params"] for event in self.events if event["method"] in kinds]

    def requests(self) -> list[str]:
        """Everything that was asked for, but what is in the page itself."""
        asked = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        urls = [one["request"]["url"] for one in asked]
        return [url for url in urls if not url.startswith("data:")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = os.environ.get("COMMBENCH_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium-headless-shell")
    opened = Browser(program, tmp_path_factory.mktemp("chromium") / "profile")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with curves, pairs, skew, a network and a comparison."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    runs = [str(ROOT / f"results/example-lab-{name}") for name in ("two-racks", "star4")]
    ended = CliRunner().invoke(group, ["report", *runs, "-o", str(out)])
    assert ended.exit_code == 0, ended.output
    return out


def test_nothing_is_loaded_and_nothing_complained_about(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("document.readyState") == "complete"
    for script in ("document.querySelector('#theme').click()", "window.dispatchEvent(new Event('beforeprint'))"):
        browser.run(script)
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]


def test_what_the_page_forbids_is_refused(browser: Browser, page: Path, tmp_path: Path) -> None:
    """The check above sees something: a picture from elsewhere and a script of its own are complained about."""
    bad = tmp_path / "bad.html"
    text = page.read_text(encoding="utf-8")
    bad.write_text(text.replace("<main>", "<main><img src='https://example.org/a.png'><script>var hurt = 1</script>"))
    browser.open(bad)
    assert browser.run("typeof hurt") == "undefined"
    assert len(browser.complaints()) >= 2


def test_every_plot_has_a_name_and_a_description(browser: Browser, page: Path) -> None:
    browser.open(page)
    nodes = browser.ask("Accessibility.getFullAXTree")["nodes"]
    images = [node for node in nodes if node.get("role", {}).get("value") in ("image", "img") and not node["ignored"]]
    assert len(images) == browser.run("document.querySelectorAll('svg[role=img]').length") > 5
    for image in images:
        assert len(image["name"]["value"]) > 10
        assert len(image.get("description", {}).get("value", "")) > 10
    assert browser.run("document.querySelectorAll('svg:not([role=img]):not([aria-hidden=true])').length") == 0


def test_landmarks_headings_and_controls(browser: Browser, page: Path) -> None:
    browser.open(page)
    nodes = [node for node in browser.ask("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    role = {name: [n for n in nodes if n.get("role", {}).get("value") == name] for name in
            ("banner", "navigation", "main", "contentinfo", "button", "searchbox", "table", "link")}  # fmt: skip
    assert [len(role[name]) for name in ("banner", "navigation", "main", "contentinfo")] == [1, 1, 1, 1]
    for name in ("button", "searchbox", "table", "link"):
        assert role[name]
        assert all(node["name"]["value"] for node in role[name]), name
    browser.ask("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert browser.run("document.activeElement.textContent") == "Skip to the summary"
    assert browser.run("document.activeElement.getBoundingClientRect().left") >= 0
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_sorting(browser: Browser, page: Path) -> None:
    browser.open(page)
    column = "[...document.querySelectorAll('#row-table tbody tr')].map(tr => tr.cells[{}].textContent.trim())"
    heads = browser.run("[...document.querySelectorAll('#row-table thead th')].map(th => th.textContent.trim())")
    for name, unit in (("size", True), ("time (us)", False)):
        k = heads.index(name)
        head = f"document.querySelector('#row-table thead').rows[0].cells[{k}]"
        before = sorted(browser.run(column.format(k)))
        for way in ("ascending", "descending"):
            browser.run(f"{head}.querySelector('button').click()")
            assert browser.run(f"{head}.getAttribute('aria-sort')") == way
            cells = browser.run(column.format(k))
            assert sorted(cells) == before
            known = [cell for cell in cells if cell != "-"]
            assert cells[: len(known)] == known  # what is not known comes last, both ways
            values = [int(c[:-3]) * {"K": 1, "M": 1024}[c[-3]] if unit else float(c) for c in known]
            assert values == sorted(values, reverse=way == "descending")
    assert browser.run("document.querySelectorAll('#row-table [aria-sort]').length") == 1


def test_filtering(browser: Browser, page: Path) -> None:
    browser.open(page)
    shown = "document.querySelectorAll('#row-table tbody tr:not([hidden])').length"
    everything = browser.run(shown)
    browser.run("document.querySelector('#filter').focus()")
    browser.ask("Input.insertText", text="SEND_recv gloo")
    some = browser.run(shown)
    assert 0 < some < everything
    assert browser.run("document.querySelector('#shown').textContent") == f"{some} of {everything} rows"
    browser.ask("Input.insertText", text=" no such row")
    assert browser.run(shown) == 0


def test_values_under_the_pointer_are_those_of_the_table(browser: Browser, page: Path) -> None:
    browser.open(page)
    for svg, mark in (("svg[data-values]:not(.heat)", "g[data-line] use"), ("svg.heat", "rect[data-k]")):
        place = browser.run(
            f"""(() => {{ const svg = document.querySelector("{svg}");
            svg.scrollIntoView({{behavior: "instant", block: "center"}});
            const box = svg.querySelector("{mark}").getBoundingClientRect();
            return [box.left + box.width / 2, box.top + box.height / 2]; }})()"""
        )
        browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
        assert browser.run("document.querySelector('#tip').hidden") is False
        tip = browser.run("document.querySelector('#tip').textContent")
        row = browser.run(
            f"""(() => {{ const table = document.getElementById(document.querySelector("{svg}").dataset.values);
            const row = table.querySelector("tbody tr:not(.of)");
            const told = (cell) => cell.textContent.trim();
            return [...row.cells].map((cell, k) => `${{told(table.tHead.rows[0].cells[k])}}: ${{told(cell)}}`); }})()"""
        )
        assert tip.splitlines()[-len(row) :] == row
        browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
        assert browser.run("document.querySelector('#tip').hidden") is True


# Contrast by WCAG 2, of every text that is shown, against the nearest background that is painted.
CONTRAST = """(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length >= 3 && colour[3] !== 0) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  let count = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || element.closest("script, [hidden], title, desc, .t0, .t1")) continue;
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element), inside = element.closest("svg");
    const ink = light(parse(inside ? style.fill : style.color));
    const paper = light(behind(inside ? inside.parentElement : element));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    count += 1;
    if (ratio < 4.5) low.push([walker.currentNode.textContent.trim().slice(0, 40), ratio]);
  }
  return [count, low];
})()"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(browser: Browser, page: Path, theme: str) -> None:
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    count, low = browser.run(CONTRAST)
    assert count > 500
    assert low == []
    pressed = browser.run("document.querySelector('#theme').getAttribute('aria-pressed')")
    assert pressed == str(theme == "dark").lower()
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.run("document.querySelector('#theme').click()")
    assert browser.run("getComputedStyle(document.body).backgroundColor") != paper
    assert browser.run(CONTRAST)[1] == []
    browser.ask("Emulation.setEmulatedMedia", features=[])


def test_a_narrow_screen_scrolls_tables_and_not_the_page(browser: Browser, page: Path) -> None:
    browser.ask("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    browser.open(page)
    assert browser.run("document.documentElement.scrollWidth") <= 360
    browser.ask("Emulation.clearDeviceMetricsOverride")


def test_it_prints(browser: Browser, page: Path) -> None:
    browser.open(page)
    printed = base64.b64decode(browser.ask("Page.printToPDF", printBackground=False)["data"])
    assert printed.startswith(b"%PDF")
    assert browser.complaints() == []


def test_without_its_script_the_page_still_says_everything(browser: Browser, page: Path) -> None:
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(page)
    nodes = [node for node in browser.ask("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    roles = [node.get("role", {}).get("value") for node in nodes]
    browser.ask("Emulation.setScriptExecutionDisabled", value=False)
    assert roles.count("button") == roles.count("searchbox") == 0
    images = [node for node in nodes if node.get("role", {}).get("value") in ("image", "img")]
    assert len(images) > 5
    assert all(node["name"]["value"] for node in images)
    assert roles.count("table") >= 3
