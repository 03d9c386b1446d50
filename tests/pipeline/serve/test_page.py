"""The page in a browser: by keyboard alone, on a phone, by who sees nothing, behind a token, with hostile names."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.pipeline.serve.conftest import TOKEN, Live

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def page(browser: Browser, live: Live) -> Iterator[Page]:
    """The service's page; nothing was asked of others, and nothing broke its policy, when the test ends."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    found, said, asked = context.new_page(), list[str](), list[str]()
    found.on("console", lambda message: said.append(message.text))
    found.on("pageerror", lambda error: said.append(str(error)))
    found.on("request", lambda request: asked.append(request.url))
    found.on("filechooser", lambda chooser: None)  # from now on: Playwright's `expect` does not wait until it listens
    found.goto(live.url)
    yield found
    context.close()
    known = ("Failed to load resource", "Blocked script execution in 'about:srcdoc'")  # refusals; the frame's sandbox
    assert [text for text in said if not text.startswith(known)] == []
    assert [url for url in asked if not url.startswith((live.url, "blob:", "data:", "about:"))] == []


def clip(folder: Path, content: bytes = b"wait 0.3\n", name: str = "interview.mp4") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def test_by_keyboard_alone(page: Page, live: Live, tmp_path: Path) -> None:
    page.keyboard.press("Tab")
    page.wait_for_selector("#file:focus")
    with page.expect_file_chooser() as chosen:
        page.keyboard.press("Enter")
    chosen.value.set_files(clip(tmp_path))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "go"
    page.keyboard.press("Enter")
    page.wait_for_selector("#says:focus")
    assert page.inner_text("#says") == "interview.mp4: weak support for a fake"
    answer = page.frame_locator("#answer")
    assert "Weak support for a fake" in answer.locator("#answer .verdict").inner_text()
    assert answer.locator("#timeline").count() == 1
    assert page.locator("#progress").is_hidden()
    page.keyboard.press("Tab")
    with page.expect_download() as saved:
        page.keyboard.press("Enter")
    assert saved.value.suggested_filename == "interview.mp4.html"
    whole = Path(saved.value.path()).read_text()
    assert "Weak support for a fake" in whole
    assert "<title>interview.mp4: weak support for a fake</title>" in whole
    assert live.left() == []


def test_progress_is_told(page: Page, tmp_path: Path) -> None:
    page.set_input_files("#file", clip(tmp_path, b"wait 2\n"))
    page.click("#go")
    page.get_by_text("Looking and listening").wait_for()
    page.wait_for_selector("#progress[value='0.5']")
    page.wait_for_selector("#result:not([hidden])")


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_what_must_be_known_first_stands_by_the_verdict(page: Page, tmp_path: Path, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.set_input_files("#file", clip(tmp_path))
    page.click("#go")
    page.wait_for_selector("#says:focus")
    said, box = page.locator("#says").bounding_box(), page.locator("#rely").bounding_box()
    assert page.inner_text("#rely") == "Before you rely on it\nIt knows <few> people."
    assert said
    assert box
    assert 0 <= said["y"] < box["y"] < box["y"] + box["height"] <= height


def test_a_video_that_is_dropped_is_scored(page: Page) -> None:
    data = page.evaluate_handle(
        "() => { const data = new DataTransfer(); data.items.add(new File(['film'], 'dropped.mp4')); return data; }"
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    page.wait_for_selector("#result:not([hidden])")
    assert page.inner_text("#says").startswith("dropped.mp4:")


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_can_be_read_by_everybody(page: Page, tmp_path: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    assert Axe().run(page).response["violations"] == []
    page.set_input_files("#file", clip(tmp_path))
    page.click("#go")
    page.wait_for_selector("#result:not([hidden])")
    page.frame_locator("#answer").locator(".verdict").wait_for()
    page.wait_for_timeout(300)  # it is laid out
    assert page.locator("#answer").bounding_box()["height"] > 700  # type: ignore[index]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    inner = "document.getElementById('answer').contentDocument.documentElement"
    assert page.evaluate(f"{inner}.scrollWidth - {inner}.clientWidth") == 0
    assert page.evaluate(f"{inner}.scrollHeight - {inner}.clientHeight") <= 0
    assert Axe().run(page).response["violations"] == []


def test_names_are_text(page: Page, tmp_path: Path) -> None:
    page.set_input_files("#file", clip(tmp_path, name="<img src=x onerror=alert(1)>.mp4"))
    page.click("#go")
    page.wait_for_selector("#result:not([hidden])")
    assert page.inner_text("#says").startswith("<img src=x onerror=alert(1)>.mp4:")
    told = page.frame_locator("#answer").locator(".file")
    assert told.inner_text() == "<img src=x onerror=alert(1)>.mp4"
    with page.expect_download() as saved:
        page.click("#save")
    whole = Path(saved.value.path()).read_text()
    assert "<title>&lt;img src=x onerror=alert(1)&gt;.mp4: weak" in whole
    assert "<img src=x" not in whole


def test_a_refusal_is_told_in_its_words(page: Page, tmp_path: Path) -> None:
    page.set_input_files("#file", clip(tmp_path, bytes(200_000)))
    page.click("#go")
    page.wait_for_selector("#problem:not([hidden])")
    assert "100,000 bytes" in page.inner_text("#problem")
    assert page.locator("#go").is_enabled()


def test_behind_a_token(browser: Browser, guarded: Live, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(guarded.url)
    page.wait_for_selector("#who:not([hidden])")
    page.fill("#token", TOKEN)
    page.set_input_files("#file", clip(tmp_path))
    page.click("#go")
    page.wait_for_selector("#result:not([hidden])")
    assert "fake" in page.inner_text("#says")
    page.close()
