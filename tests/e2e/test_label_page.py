"""Labeling in a real browser: keys, search, a new class, undo, resuming, and what the page says when saving fails."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import write_toy_queue
from deblora.pipeline.classify.queue import Labels, Queue

NAMES = ("checks", "<img src=x onerror=alert(1)>", '=slope, "steep"', *(f"class {i}" for i in range(200)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (extra: browser)"
    )
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on the path; name one with CHROMIUM")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


class Served:
    """``deblora label`` as a process, and a page on it."""

    def __init__(self, browser: Any, root: Path, **look: Any) -> None:
        command = [sys.executable, "-m", "deblora", "label", str(root)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = re.search(r"http\S+", self.process.stdout.readline())
        assert found is not None
        self.page = browser.new_page(**look)
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.goto(found.group())
        self.page.wait_for_selector("#classes button")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
            self.page.wait_for_selector("main[aria-busy=false]")

    def end(self) -> None:
        self.page.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def saved(queue: Queue) -> list[tuple[str, str]]:
    return [(own.label, own.state) for own in Labels(queue).answers.values()]


def test_a_round_of_labeling_with_keys_only(browser: Any, tmp_path: Path) -> None:
    queue = write_toy_queue(tmp_path / "queue", names=NAMES)
    served = Served(browser, queue.root)
    page = served.page
    first = page.locator("#classes button").first.inner_text()
    assert first.startswith("1 =slope")  # rare and proposed: the first key
    served.press("1", "Enter", " ", "?")
    expected = [(NAMES[2], "labeled"), (NAMES[1], "labeled"), ("", "skipped"), ("", "unsure")]
    assert saved(queue) == expected
    served.press("Backspace")
    assert saved(queue) == expected[:3] and page.locator("#count").inner_text() == "chip 4 of 6, 3 answered"
    page.keyboard.press("/")
    page.keyboard.type("class 123")
    assert page.locator("#found li").all_inner_texts() == ["class 123"]
    served.press("Enter")
    page.keyboard.press("/")
    page.keyboard.type("crane ship")
    assert page.locator("#found li").all_inner_texts() == ["new class “crane ship”"]
    served.press("Enter")
    expected = [*expected[:3], ("class 123", "labeled"), ("crane ship", "labeled")]
    assert saved(queue) == expected
    page.keyboard.press("/")
    page.keyboard.type("Crane Ship")
    served.press("ArrowUp", "Enter")  # the last line founds a class, which is nearly that one
    assert "is nearly the class 'crane ship'" in page.locator("#problem").inner_text()
    assert saved(queue) == expected
    assert not [text for text in served.said if "409" not in text]
    served.end()

    again = Served(browser, queue.root)  # goes on where it was, after a kill
    assert again.page.locator("#count").inner_text() == "chip 6 of 6, 5 answered"
    again.press("ArrowLeft", "2")  # another answer for the chip before
    assert len(saved(queue)) == 5 and saved(queue)[-1] == ("class 0", "labeled")
    again.press("Enter")
    assert len(saved(queue)) == 6 and "deblora update" in again.page.locator("#end").inner_text()
    again.process.kill()
    again.process.wait()
    again.press("1")
    assert "not saved: the server does not answer" in again.page.locator("#problem").inner_text()
    again.end()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_can_be_read(browser: Any, tmp_path: Path, scheme: str) -> None:
    queue = write_toy_queue(tmp_path / "queue", names=NAMES)
    served = Served(browser, queue.root, viewport={"width": 420, "height": 860}, color_scheme=scheme)
    assert served.page.evaluate("document.documentElement.scrollWidth") <= 420
    assert served.page.evaluate("document.images[0].naturalWidth") > 0
    contrasts = served.page.evaluate(
        """() => {
          const light = (text) => {
            const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
              .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const behind = (own) => {
            const color = getComputedStyle(own).backgroundColor;
            return /, 0\\)$|transparent/.test(color) && own.parentElement ? behind(own.parentElement) : color;
          };
          return [...document.querySelectorAll("h1, span, p, button, kbd, strong, footer, figcaption")]
            .filter((own) => own.textContent).map((own) => {
              const pair = [light(getComputedStyle(own).color), light(behind(own))].sort((a, b) => b - a);
              return (pair[0] + 0.05) / (pair[1] + 0.05);
            });
        }"""
    )
    assert len(contrasts) > 20 and min(contrasts) >= 4.5
    served.page.locator("#commands button", has_text="skip").click()
    served.page.wait_for_selector("main[aria-busy=false]")
    assert saved(queue) == [("", "skipped")] and not served.said
    served.end()
