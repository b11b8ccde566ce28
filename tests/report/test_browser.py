"""The page in a real browser: nothing is loaded, nothing is complained about, nothing sticks out, and it can be browsed."""

import io

import pytest
from PIL import Image

from featstore.report import to_html
from tests.report.browser import Browser, find_browser

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium on this machine (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(find_browser(), tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory, compatible, undecided, chain, store, images):
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, result in (("compatible", compatible), ("undecided", undecided), ("chain", chain)):
        found[name] = folder / f"{name}.html"
        found[name].write_text(to_html(result, store=store, images=images), encoding="utf-8")
    return found


@pytest.mark.parametrize("name", ["compatible", "undecided", "chain"])
@pytest.mark.parametrize("width", [400, 1200])
def test_it_opens_without_network_scripts_or_complaints_and_fits(browser, pages, name, width):
    browser.said.clear()
    browser.requested.clear()
    browser.open(pages[name], width=width)
    assert browser.said == []
    assert {address.split(":")[0] for address in browser.requested} <= {"file", "data"}
    assert [address for address in browser.requested if address.startswith("file")] == [pages[name].as_uri()]
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value("document.images.length && [...document.images].every(image => image.naturalWidth > 0)")
    sticking_out = """
        [...document.querySelectorAll("main *")].filter(item => !item.closest(".scroll, svg, .named th, .label"))
            .filter(item => item.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
            .map(item => item.outerHTML.slice(0, 80))
    """
    assert browser.value(sticking_out) == []


def test_text_is_readable_in_light_and_dark(browser, pages, tmp_path):
    """The contrast of every text with what lies behind it, by the formula of WCAG 2; 4.5 is what it asks of small text."""
    contrast = """
        (() => {
            const parts = text => text.match(/[\\d.]+/g).map(Number);
            const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
                .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
            const behind = item => {
                const layers = [];
                for (let at = item; at; at = at.parentElement) {
                    const [r, g, b, a = 1] = parts(getComputedStyle(at).backgroundColor);
                    layers.unshift([r, g, b, a]);
                }
                return layers.reduce((below, [r, g, b, a]) =>
                    [r, g, b].map((value, place) => a * value + (1 - a) * below[place]), [255, 255, 255]);
            };
            const worst = [];
            for (const item of document.querySelectorAll("main *")) {
                const own = [...item.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
                if (!own || item.closest("svg") || !item.checkVisibility()) continue;
                const [a, b] = [light(parts(getComputedStyle(item).color)), light(behind(item))].sort((x, y) => y - x);
                worst.push([(a + 0.05) / (b + 0.05), item.outerHTML.slice(0, 90)]);
            }
            return worst.sort((x, y) => x[0] - y[0]).slice(0, 3);
        })()
    """
    brightness = {}
    for scheme in ("light", "dark"):
        browser.open(pages["compatible"], scheme=scheme)
        for ratio, where in browser.value(contrast):
            assert ratio >= 4.5, f"{scheme}: {ratio:.1f} in {where}"
        browser.screenshot(tmp_path / f"{scheme}.png")
        with Image.open(io.BytesIO((tmp_path / f"{scheme}.png").read_bytes())) as picture:
            brightness[scheme] = picture.convert("L").resize((1, 1)).getpixel((0, 0))
    assert brightness["light"] > 180
    assert brightness["dark"] < 75


def test_flips_open_one_after_another(browser, pages):
    browser.open(pages["compatible"])
    groups = "[...document.querySelectorAll('details')].map(item => [item.getAttribute('name'), item.open])"
    before = browser.value(groups)
    assert [name for name, is_open in before if is_open] == list(dict.fromkeys(name for name, _ in before))
    closed = next(place for place, (_, is_open) in enumerate(before) if not is_open)
    browser.value(f"document.querySelectorAll('summary')[{closed}].click()")
    after = browser.value(groups)
    assert after[closed][1]
    assert sum(is_open for name, is_open in after if name == before[closed][0]) == 1  # the other one has closed
