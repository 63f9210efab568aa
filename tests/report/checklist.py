"""What every report must pass in a browser, whatever it shows. Each check gives the complaints it has, none when all is well."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

WIDTHS = (1280, 480)
EVERY_RUN = ("overview", "left-out", "warnings", "provenance", "command")

# Of all texts that are shown: the ratio of their colour to what lies behind them, as WCAG 2 defines it.
CONTRAST = r"""
const channel = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const parse = (text) => { const n = text.match(/[\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
const over = (top, below) => top.slice(0, 3).map((v, k) => v * top[3] + below[k] * (1 - top[3]));
const behind = (element) => {
  const layers = [];
  for (let one = element; one; one = one.parentElement) layers.push(parse(getComputedStyle(one).backgroundColor));
  return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
};
const bad = [], seen = new Set();
let texts = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || !element.checkVisibility() || element.closest("script, style")) continue;
  texts += 1;
  const style = getComputedStyle(element), ground = behind(element);
  const pair = [luminance(over(parse(style.color), ground)), luminance(ground)].sort((a, b) => b - a);
  const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
  const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  const key = `${style.color} ${ground} ${large}`;
  if (ratio < (large ? 3 : 4.5) && !seen.has(key)) { seen.add(key); bad.push([walker.currentNode.textContent.trim().slice(0, 60), ratio]); }
}
return [texts, bad];
"""

# Elements that stick out of the page, or texts that are cut off by a box that does not scroll.
CLIPPED = r"""
const wide = document.documentElement.clientWidth, bad = [];
const scrolls = (element) => { for (let one = element; one; one = one.parentElement) if (["auto", "scroll"].includes(getComputedStyle(one).overflowX)) return true; return false; };
for (const one of document.querySelectorAll("body *")) {
  if (!one.checkVisibility() || one.closest(".skip, script, dialog")) continue;
  const box = one.getBoundingClientRect();
  if (box.width && box.right > wide + 1 && !scrolls(one)) bad.push([one.tagName, one.className, box.right]);
  if (getComputedStyle(one).overflowX === "hidden" && one.scrollWidth > one.clientWidth + 1) bad.push([one.tagName, "cut", one.scrollWidth]);
}
return bad.slice(0, 10);
"""

LOADED = """
const done = arguments[0];
if (document.readyState === "complete") done(); else addEventListener("load", () => done());
"""

IMAGES = r"""
const done = arguments[arguments.length - 1];
const all = [...document.querySelectorAll("main img")];
for (const one of document.querySelectorAll("details")) one.open = true;
for (const one of document.querySelectorAll(".choice")) one.hidden = false;
for (const one of all) one.loading = "eager";
Promise.allSettled(all.map((one) => one.decode())).then(() =>
  done([all.length, all.filter((one) => !one.naturalWidth || !one.alt).map((one) => one.alt)]));
"""


def open_page(browser: Any, page: Path, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page.absolute().as_uri())
    browser.execute_async_script(LOADED)  # on a busy machine a large page may still be coming in


def failures(browser: Any, page: Path, sections: tuple[str, ...], width: int) -> list[str]:
    """Everything that is wrong with a page at this width; the page is left as it was loaded, all opened."""
    open_page(browser, page, width)
    found = []
    there = browser.execute_script("return [...document.querySelectorAll('main > section')].map((s) => s.id)")
    linked = browser.execute_script("return [...document.querySelectorAll('nav a')].map((a) => a.hash.slice(1))")
    found += [f"no section {name}" for name in (*sections, *EVERY_RUN) if name not in there]
    found += [] if there == linked else [f"contents {linked} are not the sections {there}"]
    empty = "return [...document.querySelectorAll('main > section')].filter((s) => s.innerText.split('\\n').length < 2).map((s) => s.id)"
    found += [f"section {name} is empty" for name in browser.execute_script(empty)]
    _, broken = browser.execute_async_script(IMAGES)
    found += [f"picture does not load: {alt!r}" for alt in broken]
    found += _layout(browser, f"{width} px")
    found += [f"console: {line['message']}" for line in browser.get_log("browser")]
    found += [f"asks for {url}" for url in _requests(browser, page)]
    return found


def paper_failures(browser: Any, page: Path) -> list[str]:
    """Everything that is wrong on A4."""
    open_page(browser, page, 688)  # A4 without its margins, in CSS pixels
    browser.execute_async_script(IMAGES)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        found = _layout(browser, "paper")
        folded = "return [...document.querySelectorAll('details')].filter((d) => !d.querySelector('.inside').checkVisibility()).length"
        found += ["a group is folded on paper"] if browser.execute_script(folded) else []
        shown = "return [...document.querySelectorAll('nav, .switch, dialog')].some((e) => e.checkVisibility())"
        found += ["what only a screen needs is on paper"] if browser.execute_script(shown) else []
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    told = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True, "printBackground": True})
    return found + _pdf_failures(base64.b64decode(told["data"]))


def _pdf_failures(pdf: bytes) -> list[str]:
    sizes = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)\s*\]", pdf)
    found = [] if sizes else ["no pages were printed"]
    for wide, high in {(float(w), float(h)) for w, h in sizes}:
        if abs(wide - 595) > 1.5 or abs(high - 842) > 1.5:
            found.append(f"a page of {wide} x {high} points is not A4")
    return found


def _layout(browser: Any, where: str) -> list[str]:
    over = browser.execute_script("return [document.scrollingElement.scrollWidth, innerWidth]")
    found = [f"{where}: {over[0]} px wide in {over[1]}"] if over[0] > over[1] else []
    found += [f"{where}: sticks out: {one}" for one in browser.execute_script(CLIPPED)]
    texts, bad = browser.execute_script(CONTRAST)
    found += [f"{where}: contrast {ratio:.2f} of {text!r}" for text, ratio in bad]
    return found if texts > 20 else [*found, f"{where}: only {texts} texts"]


def _requests(browser: Any, page: Path) -> list[str]:
    """Addresses that were asked for beside the page and its own pictures."""
    own = page.absolute().as_uri().rpartition("/")[0]
    asked = []
    for line in browser.get_log("performance"):
        message = json.loads(line["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    return [url[:120] for url in asked if not url.startswith(("data:", own, "about:", "blob:", "chrome:"))]
