"""Objects on the page: classes, prompts that change, brush, and parts."""

from __future__ import annotations

import re

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.ui.driving import (
    BESIDE,
    COIN,
    OTHER,
    Visit,
    answered,
    click,
    coco_of,
    coin_at,
    covered,
    drag,
    exported,
    kept,
    mask,
    open_coins,
    open_plain,
    payload,
    place,
    put,
    rectangle,
    rows,
    saved,
)


def swatches(css: str) -> str:
    return f"[...document.querySelectorAll('{css} .swatch')].map((e) => e.style.backgroundColor)"


def test_classes_are_typed_loaded_saved_and_given_by_keys(visit: Visit) -> None:
    page = visit()
    open_plain(page)
    put(page, coco_of("plain.png", [rectangle(10, 10, 60, 60), rectangle(100, 10, 150, 60)]))
    page.locator("#class-new").fill("cat")
    page.locator("#class-new").press("Enter")
    page.locator("#classes-file").set_input_files(payload("names.txt", b"dog\ncat\nbird\n"))
    expect(page.locator("#classes li")).to_have_count(3)
    with page.expect_download() as download:
        page.locator("#classes-save").click()
    assert download.value.path().read_text() == "cat\ndog\nbird\n"

    page.locator("#canvas").focus()
    page.keyboard.press("2")
    page.keyboard.press("]")
    page.keyboard.press("3")
    assert rows(page) == ["dog 1", "bird 2"]
    assert page.evaluate(swatches("#objects")) == page.evaluate(swatches("#classes"))[1:]
    # The same key again changes nothing: new objects have the class of the last one.
    page.keyboard.press("3")
    assert rows(page) == ["dog 1", "bird 2"]
    page.keyboard.press("1")
    page.keyboard.press("Control+z")
    assert rows(page) == ["dog 1", "bird 2"]
    page.locator("#classes .assign").nth(2).click()
    assert rows(page) == ["dog 1", "Object 2"]
    # Another name holds for all objects of the class.
    page.locator("#classes input").nth(1).fill("wolf")
    page.locator("#classes input").nth(1).press("Enter")
    assert rows(page) == ["wolf 1", "Object 2"]
    kept(page)


@pytest.mark.slow
def test_any_of_many_classes_is_given_by_its_name(visit: Visit) -> None:
    page = visit()
    open_plain(page)
    put(page, coco_of("plain.png", [rectangle(10, 10, 60, 60)]))
    names = "\n".join(f"{letter}-class" for letter in "abcdefghijklmnopqrst")
    page.locator("#classes-file").set_input_files(payload("names.txt", names.encode()))
    page.locator("#class-new").press("Escape")
    page.keyboard.press("g")
    page.keyboard.type("s-c")
    page.keyboard.press("Enter")
    assert rows(page) == ["s-class 1"]
    given = page.locator("#classes [aria-pressed=true]")
    expect(given).to_be_in_viewport()
    # Keys are the page's again.
    page.keyboard.press("2")
    assert rows(page) == ["b-class 1"]
    expect(given).to_be_in_viewport()


def test_points_are_moved_and_taken_away_one_by_one(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    click(page, COIN)
    click(page, BESIDE, key="Shift")
    # A click on a point takes it away; a drag moves it.
    with answered(page):
        page.mouse.click(*place(page, BESIDE))
    expect(page.locator("#prompts button")).to_have_text(["+ 335, 44 ✕"])
    with answered(page):
        drag(page, COIN, OTHER)
    expect(page.locator("#prompts button")).to_have_text(["+ 44, 124 ✕"])
    assert covered(mask(page), coin_at(OTHER)) > 0.6
    page.keyboard.press("z")
    expect(page.locator("#prompts button")).to_have_text(["+ 335, 44 ✕"])
    page.locator("#prompts button").click()
    expect(page.locator("#objects")).to_contain_text("empty")


@pytest.mark.slow
def test_a_box_is_changed_and_a_second_one_starts_another_object(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    with answered(page):
        drag(page, (18, 98), (70, 150))
    with answered(page):
        drag(page, (70, 150), (74, 156))
    expect(page.locator("#prompts button")).to_have_text(re.compile(r"^box 19 99 7[45] 15[67] ✕"))
    assert len(rows(page)) == 1
    with answered(page):
        drag(page, (305, 15), (365, 75))
    assert rows(page) == ["Object 1", "Object 2"]
    first, second = exported(page)
    assert covered(first, coin_at(OTHER)) > 0.6
    assert covered(second, coin_at(COIN)) > 0.6


@pytest.mark.slow
def test_brush_and_eraser_change_pixels_and_stay_when_one_clicks(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    click(page, COIN)
    before = mask(page)
    page.keyboard.press("p")
    drag(page, (150, 20), (200, 20))
    painted = mask(page)
    assert painted[20, 150:201].all()
    assert (painted & before == before).all()
    assert not painted[40, 150:200].any()
    page.keyboard.press("e")
    drag(page, (325, 44), (345, 44))
    erased = mask(page)
    assert not erased[44, 325:346].any()
    page.keyboard.press("k")
    click(page, BESIDE, key="Shift")
    after = mask(page)
    assert after[20, 150:201].all()
    assert not after[44, 325:346].any()
    # Undo takes back click and strokes, in turn; both keys of redo bring them again.
    for _ in range(3):
        page.keyboard.press("Control+z")
    np.testing.assert_array_equal(mask(page), before)
    page.keyboard.press("Control+y")
    np.testing.assert_array_equal(mask(page), painted)
    page.keyboard.press("Control+Shift+Z")
    np.testing.assert_array_equal(mask(page), erased)


def test_specks_are_removed_and_holes_filled(visit: Visit) -> None:
    page = visit()
    open_plain(page)
    clean = rectangle(20, 20, 120, 120)
    dirty = clean.copy()
    dirty[50:53, 60:64] = False
    dirty[150:153, 200:204] = True
    put(page, coco_of("plain.png", [dirty]))
    np.testing.assert_array_equal(mask(page), dirty)
    page.keyboard.press("w")
    np.testing.assert_array_equal(mask(page), clean)
    page.keyboard.press("z")
    np.testing.assert_array_equal(mask(page), dirty)


def test_objects_are_merged_split_and_duplicated(visit: Visit) -> None:
    page = visit()
    open_plain(page)
    one, two = rectangle(10, 10, 60, 60), rectangle(100, 10, 120, 60)
    put(page, coco_of("plain.png", [one, two]))
    page.keyboard.press("m")
    page.locator("#objects .pick").nth(1).click()
    assert rows(page) == ["Object 1"]
    np.testing.assert_array_equal(exported(page), [one | two])
    page.keyboard.press("d")
    np.testing.assert_array_equal(exported(page), [one | two, one | two])
    page.keyboard.press("s")
    found = exported(page)
    assert len(found) == 3
    np.testing.assert_array_equal(found[1:], [one, two])
    for _ in range(3):
        page.keyboard.press("z")
    np.testing.assert_array_equal(exported(page), [one, two])


def test_a_click_refines_a_mask_that_was_imported(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    rough = np.zeros((303, 384), np.bool_)
    rough[20:70, 310:360] = True
    put(page, coco_of("coins.png", [rough]))
    with page.expect_request(re.compile(r"/mask$")) as sent, answered(page):
        page.mouse.click(*place(page, COIN))
    # The prompt's line, and the mask.
    assert int(sent.value.all_headers()["content-length"]) > 256 * 256 * 4
    assert covered(mask(page), coin_at(COIN)) > 0.6


@pytest.mark.slow
def test_the_list_scrolls_to_the_selected_object(visit: Visit) -> None:
    page = visit()
    open_plain(page)
    masks = [rectangle(x, y, x + 10, y + 10) for y in range(0, 200, 15) for x in range(0, 300, 20)]
    put(page, coco_of("plain.png", masks))
    expect(page.locator("#objects li")).to_have_count(len(masks))
    for _ in range(20):
        page.keyboard.press("[")
    expect(page.locator("#objects [aria-current=true]")).to_be_in_viewport()
    assert len(masks) > 200
    np.testing.assert_array_equal(exported(page), masks)
    assert saved(page, "overlay")[:4] == b"\x89PNG"


@pytest.mark.long
def test_all_objects_are_found_and_those_that_are_there_stay(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    click(page, COIN)
    (mine,) = exported(page)
    page.keyboard.press("a")
    expect(page.locator("#state")).to_have_text(re.compile("Found [0-9]+ new objects"))
    count = len(rows(page))
    assert count > 3
    # Nothing is exported before it is kept, by a click, by work on it, or all together.
    assert len(exported(page)) == 1
    page.locator("#keep-all").click()
    found = exported(page)
    assert len(found) == count
    assert np.array_equal(found[0], mine)
    page.keyboard.press("z")
    assert len(exported(page)) == 1
    smallest = min(found[1:], key=np.count_nonzero)
    row, column = np.argwhere(smallest)[0]
    page.mouse.click(*place(page, (column, row)))
    assert np.array_equal(exported(page)[1], smallest)
    assert page.locator("#prompts li").count() == 0
    page.locator("#objects .pick", has_text="found").first.click()
    page.locator("#name").fill("named")
    page.locator("#name").press("Enter")
    assert len(exported(page)) == 3
    page.locator("#drop-found").click()
    assert len(rows(page)) == len(exported(page)) == 3
    expect(page.locator("#drop-found")).to_be_hidden()
    page.keyboard.press("z")
    assert len(rows(page)) == count
    # Looking again finds nothing new. The first step of all took one object to many.
    page.keyboard.press("a")
    expect(page.locator("#state")).to_have_text(re.compile("Found no new objects"))
    for _ in range(3):
        page.keyboard.press("z")
    assert len(rows(page)) == 1
