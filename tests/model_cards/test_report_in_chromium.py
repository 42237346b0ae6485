"""The report as a browser shows it: nothing fetched, nothing cut off on a phone, all of it reachable by keys and ear.

Needs Chromium (Debian's package `chromium`); skipped without.
"""

import pytest

from model_cards.report import command as report
from tests.chromium import Chromium, find_chromium

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed")

TASKS = ["pneumoniamnist", "breastmnist", "a task with quite a long name"]
NARROW_NAMES = """[...document.querySelectorAll('.wide tbody th')].map(cell => {
  const range = document.createRange(); range.selectNodeContents(cell);
  const lines = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
  return [cell.textContent, lines.size]; })"""
SMALL_TEXT = """[...document.querySelectorAll('main td, main th, main p, main li, main figcaption')]
  .filter(element => element.textContent.trim() && parseFloat(getComputedStyle(element).fontSize) < 12)
  .map(element => element.textContent.slice(0, 40))"""
HIDDEN_REGIONS = """[...document.querySelectorAll('.scroll')].filter(element => element.checkVisibility())
  .map(element => element.getAttribute('aria-label'))"""


@pytest.fixture(scope="module")
def page(make, dataset_dir, run_dir, saved_model, tmp_path_factory):
    """A report of everything, two models and two runs, as a file:// address."""
    root = tmp_path_factory.mktemp("report")
    rows = make.rows("out/dino/model", TASKS) + make.rows("timm/vit_base_patch16_224", TASKS, shift=-0.02)
    row = {"task": TASKS[0], "method": "linear", "metric": "auc", "model_a": "out/dino/model", "p": 0.001}
    row |= {"model_b": "timm/vit_base_patch16_224", "difference": 0.02, "low": 0.01, "high": 0.03}
    inputs = [dataset_dir, run_dir, make.run(root / "run-mae", 200, 1), saved_model, make.scaling(root / "scaling")]
    inputs.append(make.results(root / "results", rows, [row, {**row, "metric": "mcc"}]))
    assert report.main([*map(str, inputs), "--out", str(root / "report.html")]) == 0
    return (root / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_nothing_is_fetched_and_nothing_sticks_out(browser, page, width, dark):
    browser.events.clear()
    browser.open(page, width=width, dark=dark)
    assert {url for url in browser.requested() if not url.startswith("data:")} == {page}
    assert browser.complaints() == []
    assert browser.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(21, 24, 27)" if dark else "rgb(252, 252, 251)"
    )


def test_a_phone_shows_names_whole_and_text_large_enough(browser, page):
    browser.open(page, width=390, height=844)
    lines = dict(browser.evaluate(NARROW_NAMES))
    assert lines["pneumoniamnist"] == lines["breastmnist"] == 1
    assert browser.evaluate(SMALL_TEXT) == []
    assert min(browser.evaluate("[...document.querySelectorAll('nav a')].map(a => a.clientHeight)")) >= 24


def test_keys_reach_the_content_and_scroll_the_tables(browser, page):
    browser.open(page, width=390, height=844)
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.className") == "skip"
    assert browser.evaluate("document.activeElement.getBoundingClientRect().left >= 0")  # seen once it has the focus
    browser.press("Enter")
    assert browser.evaluate("location.hash") == "#content"
    reached = []
    for _ in range(60):
        browser.press("Tab")
        reached.append(browser.evaluate("document.activeElement.getAttribute('aria-label') || ''"))
        if reached[-1] == "Scores: linear fast":
            assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            browser.press("ArrowRight")
            browser.wait_for("document.activeElement.scrollLeft > 0", seconds=5)
    assert set(browser.evaluate(HIDDEN_REGIONS)) <= set(reached)


def test_a_screen_reader_finds_landmarks_headings_tables_and_pictures(browser, page):
    browser.open(page)
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    told = [
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
    ]
    roles = [role for role, _ in told]
    for role in ("banner", "navigation", "main", "contentinfo"):
        assert roles.count(role) == 1, role
    headings = [name for role, name in told if role == "heading"]
    assert {"Dataset", "Training", "Model", "Evaluation", "Scaling", "Paired differences"} <= set(headings)
    pictures = [name for role, name in told if role in ("image", "img")]
    assert len(pictures) > 10 and all(pictures)
    assert any(name.startswith("loss. run-dino: ") and "lowest" in name for name in pictures)
    assert roles.count("rowheader") > 10 and roles.count("columnheader") > 10
    assert all(name for role, name in told if role in ("region", "link"))
