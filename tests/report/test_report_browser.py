"""A report in a headless Chromium: looks, tables, pictures, paper."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from mxbridge.report import build
from tests.report import checklist
from tests.report.showcase import HOSTILE, make_run

pytestmark = pytest.mark.browser

SECTIONS = ("counts", "images", "more", "normalisation")


@pytest.mark.parametrize("width", checklist.WIDTHS)
def test_the_checklist_on_a_screen(chromium: Any, page: Path, width: int) -> None:
    assert checklist.failures(chromium, page, SECTIONS, width) == []
    assert chromium.title.startswith("Showcase"), "a name has run as a script"


def test_the_checklist_on_paper(chromium: Any, page: Path) -> None:
    assert checklist.paper_failures(chromium, page) == []


def test_what_is_too_wide_for_paper_says_where_it_is(chromium: Any, page: Path) -> None:
    checklist.open_page(chromium, page, 688)
    seen = "const t = [...document.querySelectorAll('#more figure.table')]; return t.map((f) => [f.checkVisibility(), f.querySelector('table').checkVisibility(), f.innerText])"
    assert [one[1] for one in chromium.execute_script(seen)] == [True, False], "the second is folded"
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        chromium.execute_script("dispatchEvent(new Event('beforeprint'))")
        first, second = chromium.execute_script(seen)
        assert first[:2] == [True, False]
        assert "This table has 22 columns: see it on screen, or in metrics.csv." in first[2]
        assert second[0] is False, "a folded group that is not meant for paper stays folded"
        assert chromium.execute_script("return document.querySelectorAll('#images details:not([open])').length") == 0
    finally:
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("width", checklist.WIDTHS)
def test_scores_as_the_command_shows_them(chromium: Any, scored: Path, width: int) -> None:
    sections = ("images", "distributions", "gallery", "counts", "normalisation")
    assert checklist.failures(chromium, scored, sections, width) == []
    assert chromium.execute_script("return document.querySelectorAll('#images .choices img').length") >= 8
    assert checklist.paper_failures(chromium, scored) == []


def test_the_checklist_finds_what_is_wrong(chromium: Any, page: Path, tmp_path: Path) -> None:
    """The checks can fail: a page that is spoilt in every way is found out."""
    text = page.read_text(encoding="utf-8")
    spoilt = text.replace("--muted: #4f5b67", "--muted: #b8c0c8").replace('id="counts"', 'id="other"', 1)
    spoilt = spoilt.replace("data:image/webp;base64,UklG", "data:image/webp;base64,AAAA", 1)
    spoilt = spoilt.replace(
        "</main>", "<p style='width:3000px'>wide</p><img alt='x' src='https://example.org/x.png'></main>"
    )
    copy = tmp_path / "spoilt.html"
    copy.write_text(spoilt, encoding="utf-8")
    told = "\n".join(checklist.failures(chromium, copy, SECTIONS, 480))
    for word in ("no section counts", "does not load", "480 px: contrast", "px wide in 480", "sticks out", "console: "):
        assert word in told, told
    assert "size: A4" in text
    copy.write_text(text.replace("size: A4", "size: A5"), encoding="utf-8")
    assert any("is not A4" in one for one in checklist.paper_failures(chromium, copy))


def test_tables_sort_numbers_as_numbers_and_what_is_missing_last(chromium: Any, page: Path) -> None:
    checklist.open_page(chromium, page, 1280)
    column = "return [...document.querySelectorAll('#counts tbody tr')].map((r) => r.cells[{}].innerText)"
    press = "document.querySelectorAll('#counts th button')[{}].click()"
    sorts = "return [...document.querySelectorAll('#counts th')].map((h) => h.getAttribute('aria-sort'))"
    chromium.execute_script(press.format(1))
    up = chromium.execute_script(column.format(1))
    assert [int(text.replace("\u202f", "")) for text in up] == sorted(3005 * k for k in range(8))
    chromium.execute_script(press.format(1))
    assert chromium.execute_script(column.format(1)) == up[::-1]
    assert chromium.execute_script(sorts) == [None, "descending", None, None, None, None]
    for times in range(2):
        chromium.execute_script(press.format(2))
        scores = chromium.execute_script(column.format(2))
        assert scores[-1] == "–", times
    assert scores[:2] == ["10\u202f000", "1\u202f000"]
    chromium.execute_script(press.format(0))
    assert chromium.execute_script(column.format(0))[1:5] == ["CD3", "CD8", "CD20", "CD68"]


def test_tables_sort_by_keyboard(chromium: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    checklist.open_page(chromium, page, 1280)
    button = chromium.find_element("css selector", "#counts th:nth-child(2) button")
    button.send_keys(Keys.ENTER)
    assert (
        chromium.execute_script("return document.querySelectorAll('#counts th')[1].getAttribute('aria-sort')")
        == "ascending"
    )


def test_pictures_are_enlarged_moved_and_closed(chromium: Any, page: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    checklist.open_page(chromium, page, 1280)
    chromium.find_element("css selector", "#images figure.picture button.zoom").send_keys(Keys.ENTER)
    dialog = chromium.find_element("id", "zoom")
    shown = "const i = document.querySelector('#zoom img'), b = i.getBoundingClientRect(); return [b.left, b.width, i.naturalWidth]"
    assert dialog.get_attribute("open") is not None
    _, wide, natural = chromium.execute_script(shown)
    assert natural == 240
    assert wide > 400, "a picture fills the screen"
    chromium.find_element("css selector", "#zoom [data-do=in]").click()
    left, wider, _ = chromium.execute_script(shown)
    assert wider == pytest.approx(1.4 * wide, rel=0.01)
    ActionChains(chromium).send_keys(Keys.ARROW_LEFT).perform()
    assert chromium.execute_script(shown)[0] == pytest.approx(left + 80, abs=1)
    stage = chromium.find_element("css selector", "#zoom .stage")
    ActionChains(chromium).drag_and_drop_by_offset(stage, 60, 0).perform()
    assert chromium.execute_script(shown)[0] == pytest.approx(left + 140, abs=2)
    ActionChains(chromium).send_keys(Keys.ESCAPE).perform()
    assert dialog.get_attribute("open") is None


def test_choices_show_one_and_change_together(chromium: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    checklist.open_page(chromium, page, 1280)
    seen = "return [...document.querySelectorAll('#images .choices')].map((c) => [...c.querySelectorAll('.choice')].filter((x) => !x.hidden).map((x) => x.dataset.name).join())"
    assert set(chromium.execute_script(seen)) == {"CD3"}
    tab = chromium.find_element("css selector", "#images [role=tab]")
    tab.send_keys(Keys.ARROW_RIGHT)
    assert chromium.execute_script(seen) == ["CD8"] * 3, "the same choice in every image"
    listed = chromium.find_element("css selector", "#more select")
    listed.send_keys("C7")
    assert (
        chromium.execute_script(
            "return [...document.querySelectorAll('#more .choice')].filter((x) => !x.hidden)[0].dataset.name"
        )
        == "C7"
    )


def test_a_page_without_scripts_shows_everything(chromium: Any, page: Path) -> None:
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        checklist.open_page(chromium, page, 1280)
        names = [one.text for one in chromium.find_elements("css selector", "#images details[open] h5")]
        assert names[:2] == ["CD3", "CD8"]
        assert not chromium.find_elements("css selector", "th button")
    finally:
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_folder_form_passes_too(chromium: Any, tmp_path: Path, showcase: None) -> None:
    folder = tmp_path / "ä run"
    make_run(folder)
    page = build.build_report(folder, largest=50_000)
    assert page == folder / "report" / "index.html"
    moved = tmp_path / "elsewhere"
    shutil.move(page.parent, moved)  # it can be sent to somebody
    assert checklist.failures(chromium, moved / "index.html", SECTIONS, 480) == []


def test_names_stay_names(chromium: Any, page: Path) -> None:
    checklist.open_page(chromium, page, 1280)
    assert (
        chromium.execute_script("return document.querySelectorAll('main script, main [onerror], main iframe').length")
        == 0
    )
    shown = HOSTILE.replace("\u202e", "\ufffd").replace("\u202c", "\ufffd")
    assert shown in chromium.execute_script("return document.querySelector('#images').textContent")
