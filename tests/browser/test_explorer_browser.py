"""The explorer in a real Chromium, in front of a real devnet: nothing cut, nothing from outside, readable, live, usable."""

import os
import re
import shutil
from pathlib import Path

import pytest

from genesis.cast import cast
from ledger.client.keys import encode_address

sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-default-apps", "--no-first-run", "--no-proxy-server",
]
WIDTHS, THEMES = (400, 1400), ("light", "dark")
CONTRAST = 4.5


def _binary():
    """A Chromium: QUORIX_CHROMIUM, one on the PATH, or the one that playwright installed; None without any."""
    given = os.environ.get("QUORIX_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if given:
        return given
    with sync_api.sync_playwright() as engine:
        path = engine.chromium.executable_path
    return path if Path(path).exists() else None


BINARY = _binary()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BINARY is None, reason="no Chromium on this machine; set QUORIX_CHROMIUM or install one"),
]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as engine:
        running = engine.chromium.launch(executable_path=BINARY, args=FLAGS)
        yield running
        running.close()


class Visit:
    """A tab that notes what goes wrong."""

    def __init__(self, browser, devnet, *, width=1400, theme="light", **options):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **options)
        self.page, self.base, self.width, self.theme = self.context.new_page(), devnet.explorer, width, theme
        self.troubles = []
        self.page.on("console", lambda message: message.type in ("error", "warning") and self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", lambda r: r.url.startswith((self.base, "data:")) or self.troubles.append(f"outside: {r.url}"))

    def open(self, path):
        return self.page.goto(self.base + path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


@pytest.fixture(scope="module")
def paths(devnet):
    """One page of each kind, with something on it."""
    devnet.wait_for(lambda lines: any(line.get("top") for line in lines), within_s=60)
    hotkey = next(m.hotkey for m in cast(1) if m.path == "//validator//0")
    block = max((line for line in devnet.blocks()), key=lambda line: (line["extrinsics"], line["height"]))["height"]
    extrinsic = devnet.cli("query", "block", str(block))["extrinsics"][0]["id"]
    return {
        "/": "quorix-dev-1", "/blocks": "Blocks", f"/block/{block}": f"Block {block}", f"/tx/{extrinsic}": ".",
        f"/account/{encode_address(hotkey.public)}": "validator-0", "/subnets": "Subnets", "/subnet/1": "Subnet 1 prose",
        "/neuron/1/0": "validator-0", "/neuron/1/4": "english", "/epoch/1/latest": "Why they were paid", "/epoch/2/0": "Why",
        "/authorities": "Authorities", "/governance": "Governance",
        "/events": "Events", "/ask": "Ask the network", "/block/99999999": "Not found",
        "/nothing": "Not found",
    }


# What stands out of the window, or is cut without a way to scroll to it.
CUT = """() => {
  const out = [];
  const wide = document.documentElement.scrollWidth, width = document.documentElement.clientWidth;
  if (wide > width) out.push(`the page is ${wide} px wide`);
  for (const e of document.querySelectorAll('body *')) {
    const box = e.getBoundingClientRect();
    if (!box.width || e.closest('.hidden, .skip, .wide, svg')) continue;
    if (box.right > width + 1 || box.left < -1) out.push(`${e.tagName} ${e.className} from ${box.left} to ${box.right}`);
    const style = getComputedStyle(e);
    if (e.scrollWidth > e.clientWidth + 1 && ['hidden', 'clip'].includes(style.overflowX)) out.push(`${e.tagName} is cut`);
  }
  for (const e of document.querySelectorAll('.wide')) {
    if (getComputedStyle(e).overflowX !== 'auto') out.push('a table box does not scroll');
  }
  return out;
}"""

# The least contrast of any text to the ground behind it, with where it is (WCAG 2 formula).
LEAST_CONTRAST = """() => {
  const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (let at = e; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour[3] > 0) return colour;
    }
    return [255, 255, 255, 1];
  };
  let least = [99, ''], seen = 0;
  const check = (colour, e, what) => {
    const [a, b] = [light(parse(colour)), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    seen += 1;
    if (ratio < least[0]) least = [ratio, what];
  };
  for (const e of document.querySelectorAll('body, body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (own && !e.closest('title, script, .hidden')) {
      const style = getComputedStyle(e);
      check(e.closest('svg') ? style.fill : style.color, e, `${e.tagName}.${e.className} ${e.textContent.trim().slice(0, 40)}`);
    }
    if (e.placeholder) check(getComputedStyle(e, '::placeholder').color, e, 'placeholder');
  }
  return [...least, seen];
}"""


@pytest.mark.slow  # sixteen pages, drawn without a graphics processor
@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_is_whole_and_readable(browser, devnet, paths, width, theme):
    with Visit(browser, devnet, width=width, theme=theme) as visit:
        for path, heading in paths.items():
            answer = visit.open(path)
            missing = heading == "Not found"
            assert answer.status == (404 if missing else 200), path
            assert re.search(heading, visit.page.locator("h1").inner_text()), path
            assert not visit.page.evaluate(CUT), (path, width, theme, visit.page.evaluate(CUT))
            least, where, seen = visit.page.evaluate(LEAST_CONTRAST)
            assert seen > 5 and least >= CONTRAST, (path, theme, least, where)
            unscoped = visit.page.locator("th:not([scope])").count()
            assert unscoped == 0, path
            expected = [t for t in visit.troubles if not (missing and "404" in t)]
            assert not expected, (path, expected)
            visit.troubles.clear()
        ground = visit.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        brightness = sum(int(part) for part in re.findall(r"\d+", ground)[:3])
        assert (brightness < 300) == (theme == "dark")


def test_nothing_can_be_loaded_from_outside(browser, devnet):
    with Visit(browser, devnet) as visit:
        visit.open("/")
        visit.page.evaluate("""async () => {
          const image = document.createElement("img");
          image.src = "http://192.0.2.1/x.png";
          document.body.append(image);
          await fetch("http://192.0.2.1/").catch(() => null);
        }""")
        visit.page.wait_for_timeout(200)
        refused = [trouble for trouble in visit.troubles if "Content Security Policy" in trouble]
        for directive in ("connect-src", "img-src"):
            assert any(directive in text for text in refused), visit.troubles


def test_the_home_page_follows_the_chain_by_events_and_can_be_paused(browser, devnet):
    with Visit(browser, devnet) as visit:
        visit.open("/")
        page = visit.page
        newest = lambda: int(page.locator(".tile b").first.inner_text())  # noqa: E731
        first = newest()
        page.wait_for_function("first => Number(document.querySelector('.tile b').textContent) >= first + 3", arg=first)
        assert page.locator("#link").inner_text() == "live"
        assert int(page.locator(".figures b").first.inner_text()) >= first + 3
        heights = [int(text) for text in page.locator(".tile b").all_inner_texts()]
        assert heights == list(range(heights[0], heights[0] - len(heights), -1)) and len(heights) == 12
        page.get_by_role("button", name="Pause").click()
        page.wait_for_timeout(300)
        paused = newest()
        page.wait_for_timeout(1200)
        assert newest() == paused and page.locator("#link").inner_text() == "paused"
        page.get_by_role("button", name="Resume").click()
        page.wait_for_function("last => Number(document.querySelector('.tile b').textContent) > last", arg=paused)
        assert not visit.troubles


def test_the_slash_key_searches(browser, devnet):
    with Visit(browser, devnet) as visit:
        visit.open("/blocks")
        visit.page.keyboard.press("/")
        assert visit.page.evaluate("document.activeElement.id") == "q"
        visit.page.keyboard.type("eng/")  # the second slash is text
        assert visit.page.input_value("#q") == "eng/"
        visit.page.fill("#q", "english")
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_url("**/neuron/1/4")
        visit.page.keyboard.press("/")
        visit.page.fill("#q", "1")
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_url("**/block/1")
        visit.page.keyboard.press("/")
        visit.page.fill("#q", "no such thing")
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_selector("text=nothing is called")


def test_the_keyboard_reaches_everything_in_order(browser, devnet):
    with Visit(browser, devnet) as visit:
        visit.open("/subnet/1")
        visit.page.keyboard.press("Tab")
        assert visit.page.evaluate("document.activeElement.className") == "skip"
        box = visit.page.locator(".skip").bounding_box()
        assert box["x"] >= 0 and box["y"] >= 0  # shown while it has the focus
        visit.page.keyboard.press("Enter")
        assert visit.page.url.endswith("#main")
        visit.page.keyboard.press("Tab")
        assert visit.page.evaluate("document.querySelector('main').contains(document.activeElement)")
        outline = visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"


def test_pages_work_without_javascript(browser, devnet, paths):
    with Visit(browser, devnet, java_script_enabled=False, width=400) as visit:
        for path in ("/subnet/1", "/epoch/1/latest", "/blocks"):
            visit.open(path)
            assert re.search(paths[path], visit.page.locator("h1").inner_text()), path
            assert visit.page.locator("tbody tr").count() >= 3 and not visit.page.evaluate(CUT)
        visit.open("/")
        assert visit.page.locator("#pause").is_hidden() and visit.page.locator(".tile").count() == 12
        visit.page.fill("#q", "records")
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_url("**/subnet/2")
        visit.page.get_by_text("Parameters").click()
        assert visit.page.get_by_role("rowheader", name="tempo", exact=True).is_visible()


def test_the_epoch_page_shows_the_cabal_s_cut_without_scrolling(browser, devnet, paths):
    with Visit(browser, devnet) as visit:
        for netuid, miner in ((1, "english"), (2, "arith")):
            visit.open(f"/epoch/{netuid}/latest")
            cut = visit.page.locator(".cuts li").first
            text = cut.inner_text()
            assert "✂ validator-2" in text and miner in text and "is cut" in text, text
            assert cut.bounding_box()["y"] < 500  # of a window 900 px high
            assert visit.page.locator("td.cut .lost").count() >= 1
        steps = visit.page.locator(".flow a")
        assert [step.split()[1] for step in steps.all_inner_texts()] == [
            "Stake", "Weights", "Clipping", "Incentive", "Bonds", "Dividends", "Pay"
        ]
        for index in range(7):
            steps.nth(index).click()
            anchor = visit.page.url.partition("#")[2]
            visit.page.wait_for_function(
                "id => Math.abs(document.getElementById(id).getBoundingClientRect().top) < 900", arg=anchor
            )


def test_every_link_leads_somewhere(browser, devnet):
    """Walks the site from its home page, a few pages of each kind."""
    with Visit(browser, devnet) as visit:
        waiting, seen, kinds = ["/", "/neuron/1/0", "/neuron/1/3"], set(), {}  # their hotkeys have signed something
        while waiting:
            path = waiting.pop(0)
            kind = path.split("?")[0].strip("/").split("/")[0]
            if path in seen or kinds.get(kind, 0) >= 3:
                continue
            seen.add(path)
            kinds[kind] = kinds.get(kind, 0) + 1
            answer = visit.context.request.get(visit.base + path)
            assert answer.status == 200, (path, answer.status)
            if "text/html" in answer.headers["content-type"]:
                found = re.findall(r'(?:href|src)="(/[^"#]*|\?[^"#]*)"', answer.text())
                waiting += [(path.split("?")[0] + link if link[0] == "?" else link).replace("&amp;", "&") for link in found]
        assert {"", "blocks", "block", "subnet", "neuron", "epoch", "account", "tx", "authorities", "events"} <= set(kinds)
        assert any(path.endswith(".json") for path in seen)


def test_the_network_can_be_asked(browser, devnet):
    with Visit(browser, devnet) as visit:
        visit.open("/ask")
        visit.page.fill("#ask", "1+1=")
        visit.page.get_by_role("button", name="Ask").click()
        visit.page.wait_for_selector(".answer", timeout=60_000)
        assert visit.page.locator(".answer").inner_text().startswith("1+1=")
        assert visit.page.locator("tbody tr").count() >= 3
        assert not visit.troubles
