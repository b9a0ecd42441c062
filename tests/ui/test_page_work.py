"""No work is lost, and many images."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hqsam_server import TritonServer
from hqsam_testing import image_files
from hqsam_testing.browser import hqsam_ui
from hqsam_testing.coins import COINS
from PIL import Image
from playwright.sync_api import Page, Route, expect

from tests.ui.driving import (
    COIN,
    OTHER,
    Visit,
    answered,
    choose,
    click,
    coin_at,
    covered,
    exported,
    image_file,
    kept,
    mask,
    open_coins,
    open_image,
    open_plain,
    payload,
    place,
    rows,
    screenshot,
    shown,
)


def test_work_is_there_after_a_reload(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    click(page, COIN)
    page.locator("#class-new").fill("drachma")
    page.locator("#class-new").press("Enter")
    page.keyboard.press("Escape")
    page.locator("#classes .assign").click()
    page.locator("#name").fill("the largest")
    page.locator("#name").press("Enter")
    page.locator("#done").check()
    found = mask(page)
    kept(page)
    page.reload()
    shown(page, COINS.name)
    assert rows(page) == ["the largest"]
    expect(page.locator("#class")).to_have_value("1")
    expect(page.locator("#done")).to_be_checked()
    np.testing.assert_array_equal(mask(page), found)
    # It goes on where it stopped.
    click(page, OTHER)
    expect(page.locator("#prompts li")).to_have_count(2)


def test_a_mask_that_was_not_answered_is_asked_for_after_a_reload(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    page.route("**/mask", lambda route: None)
    page.mouse.click(*place(page, COIN))
    kept(page)
    page.unroute("**/mask")
    with answered(page):
        page.reload()
    assert covered(mask(page), coin_at(COIN)) > 0.6


def test_another_image_and_back_keeps_masks_and_undo(visit: Visit) -> None:
    page = visit()
    page.locator("#file").set_input_files(
        [payload(COINS.name, COINS.read_bytes()), payload("other.png", image_file(300, 200))]
    )
    shown(page, COINS.name)
    expect(page.locator("#strip li")).to_have_count(2)
    # The answer arrives while the other image is shown.
    page.mouse.click(*place(page, COIN))
    page.keyboard.press("PageDown")
    shown(page, "other.png")
    assert rows(page) == ["Object 1"]
    page.keyboard.press("PageUp")
    shown(page, COINS.name)
    assert covered(mask(page), coin_at(COIN)) > 0.6
    page.keyboard.press("z")
    expect(page.locator("#objects")).to_contain_text("empty")


@pytest.mark.slow
def test_every_image_keeps_its_undo_while_the_page_is_open(visit: Visit) -> None:
    page = visit()
    names = [f"{letter}.png" for letter in "abcdefghi"]
    page.locator("#file").set_input_files(
        [payload(name, image_file(300, 200)) for name in names],
    )
    shown(page, "a.png")
    page.mouse.click(*place(page, (100, 100)))
    kept(page)
    # More than the page keeps loaded.
    for name in names[1:]:
        page.keyboard.press("PageDown")
        shown(page, name)
    page.locator("#strip button").first.click()
    shown(page, "a.png")
    expect(page.locator("#objects")).to_contain_text("1 point")
    page.keyboard.press("z")
    expect(page.locator("#objects")).to_contain_text("empty")
    page.keyboard.press("y")
    expect(page.locator("#objects")).to_contain_text("1 point")


def two_tabs(visit: Visit) -> tuple[Page, Page]:
    """Open the coins in two tabs of one browser."""
    one = visit()
    open_coins(one)
    kept(one)
    two = one.context.new_page()
    two.goto(one.url)
    shown(two, COINS.name)
    return one, two


def test_two_tabs_show_the_same(visit: Visit) -> None:
    one, two = two_tabs(visit)
    click(one, COIN)
    expect(two.locator("#objects")).to_contain_text("1 point")
    one.locator("#class-new").fill("coin")
    one.locator("#class-new").press("Enter")
    expect(two.locator("#classes input")).to_have_value("coin")
    open_plain(two)
    expect(one.locator("#strip li")).to_have_count(2)
    one.locator("#done").check()
    expect(two.locator("#progress")).to_have_text("2 of 2, 1 done")
    kept(one)
    kept(two)
    two.reload()
    expect(two.locator("#progress")).to_have_text("2 of 2, 1 done")
    two.locator("#forget").click()
    expect(one.locator("#strip li")).to_have_count(1)


def test_two_tabs_do_not_overwrite_each_other(visit: Visit) -> None:
    one, two = two_tabs(visit)
    # As if both were changed in the same moment.
    one.evaluate("void (BroadcastChannel.prototype.postMessage = () => {})")
    click(one, COIN)
    kept(one)
    click(two, OTHER)
    expect(two.locator("#error-text")).to_have_text(re.compile("changed in another tab"))
    expect(two.locator("#saved")).to_have_text("not saved")
    two.locator("#retry").click()
    kept(two)
    one.reload()
    shown(one, COINS.name)
    expect(one.locator("#prompts li")).to_have_text([f"+ {OTHER[0]}, {OTHER[1]} ✕"])


@pytest.mark.slow
def test_the_same_file_again_brings_its_work_back(visit: Visit, tmp_path: Path) -> None:
    path = tmp_path / "coins.png"
    path.write_bytes(COINS.read_bytes())
    page = visit()
    for _ in range(2):
        page.locator("#file").set_input_files(path)
        shown(page, "coins.png")
        if rows(page) == ["Object 1"] and page.locator("#objects").inner_text().count("empty"):
            click(page, COIN)
    expect(page.locator("#strip li")).to_have_count(1)
    expect(page.locator("#objects")).to_contain_text("1 point")


@pytest.mark.slow
def test_leaving_with_work_that_is_not_saved_asks_first(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    kept(page)
    page.evaluate("void (IDBObjectStore.prototype.put = () => { throw new Error('no room') })")
    click(page, COIN)
    expect(page.locator("#saved")).to_have_text("not saved")
    expect(page.locator("#error-text")).to_have_text(re.compile("no room"))
    dialogs: list[str] = []

    def stay(dialog: object) -> None:
        dialogs.append(dialog.type)  # type: ignore[attr-defined]
        dialog.dismiss()  # type: ignore[attr-defined]

    page.on("dialog", stay)
    with page.expect_event("dialog"):
        page.close(run_before_unload=True)
    assert dialogs == ["beforeunload"]
    expect(page.locator("#objects")).to_contain_text("1 point")


def test_what_is_given_while_the_page_starts_is_kept(visit: Visit) -> None:
    page = visit()
    page.locator("#class-new").fill("cat")
    page.locator("#class-new").press("Enter")
    # Until the class is saved, leaving asks first: also while the page starts.
    page.wait_for_function("dispatchEvent(new Event('beforeunload', { cancelable: true }))")
    held: list[Route] = []
    page.route("**/api/status", lambda route: held.append(route))
    with page.expect_request("**/api/status"):
        page.reload()
    choose(page, COINS.name, COINS.read_bytes())
    page.locator("#class-new").fill("dog")
    page.locator("#class-new").press("Enter")
    held[0].continue_()
    page.unroute("**/api/status")
    shown(page, COINS.name)
    expect(page.locator("#strip li")).to_have_count(1)
    expect(page.locator("#classes li")).to_have_count(2)
    kept(page)
    page.reload()
    shown(page, COINS.name)
    names = page.locator("#classes input").evaluate_all("all => all.map(({value}) => value)")
    assert names == ["cat", "dog"]


def test_an_image_is_removed_with_its_work(visit: Visit) -> None:
    page = visit()
    open_coins(page)
    click(page, COIN)
    kept(page)
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#forget").click()
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#images")).to_be_hidden()
    page.reload()
    expect(page.locator("#empty")).to_be_visible()


@pytest.mark.slow
def test_the_next_images_are_encoded_while_one_is_worked_on(visit: Visit) -> None:
    page = visit()
    sent: list[int] = []
    page.on(
        "requestfinished",
        lambda request: sent.append(1) if request.url.endswith("/api/images") else None,
    )
    files = [payload(f"{name}.png", image_file(300, 200)) for name in "abc"]
    page.locator("#file").set_input_files(files)
    shown(page, "a.png")
    while len(sent) < 3:
        page.wait_for_event("requestfinished")
    page.keyboard.press("PageDown")
    shown(page, "b.png")
    page.keyboard.press("PageDown")
    shown(page, "c.png")
    assert len(sent) == 3


def test_a_folder_is_opened_in_order(visit: Visit, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for name in ("10.png", "9.png", "deeper/11.png"):
        (folder / name).write_bytes(image_file(60, 40))
    (folder / "notes.txt").write_text("not an image")
    page = visit()
    page.locator("#folder").set_input_files(folder)
    expect(page.locator("#strip li")).to_have_count(3)
    titles = page.locator("#strip button").evaluate_all("all => all.map(({title}) => title)")
    assert titles == ["9.png", "10.png", "11.png"]


def test_images_are_dropped_and_pasted(visit: Visit) -> None:
    page = visit()
    for kind in ("drop", "paste"):
        name = f"{kind}.png"
        page.evaluate(
            """([kind, name, bytes]) => {
                const files = new DataTransfer();
                files.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
                const event = kind === "drop"
                    ? new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true })
                    : new ClipboardEvent(kind, { clipboardData: files, bubbles: true });
                document.body.dispatchEvent(event);
            }""",
            [kind, name, list(image_file(60, 40))],
        )
        shown(page, name)
    expect(page.locator("#strip li")).to_have_count(2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "coins.png").write_bytes(COINS.read_bytes())
    (folder / "image 10.png").write_bytes(image_file(300, 200))
    (folder / "image 9.png").write_bytes(image_file(300, 200))
    return folder


@pytest.mark.slow
def test_work_on_a_folder_lies_beside_its_images(
    visit: Visit, small_server: TritonServer, folder: Path
) -> None:
    arguments = (str(folder), "--url", small_server.grpc_url)
    with hqsam_ui(*arguments) as (address, _):
        page = visit(address)
        shown(page, "coins.png")
        click(page, COIN)
        page.keyboard.press("Control+Enter")
        shown(page, "image 9.png")
        expect(page.locator("#progress")).to_have_text("2 of 3, 1 done")
        page.locator("#class-new").fill("coin")
        page.locator("#class-new").press("Enter")
        kept(page)
        first = exported(page, "all")
    work = json.loads((folder / "coins.png.hqsam.json").read_bytes())
    assert work["done"] is True and len(work["objects"]) == 1
    assert json.loads((folder / "classes.hqsam.json").read_bytes()) == [{"id": 1, "name": "coin"}]

    # Another browser, and another run of the page.
    with hqsam_ui(*arguments) as (address, _):
        page = visit(address)
        shown(page, "image 9.png")
        expect(page.locator("#strip button").first).to_have_attribute(
            "aria-label", "coins.png, done, 1 object"
        )
        assert page.locator("#classes input").input_value() == "coin"
        second = exported(page, "all")
    np.testing.assert_array_equal(first, second)
    assert covered(second[0], coin_at(COIN)) > 0.6


@pytest.mark.slow
def test_a_folder_opens_when_its_server_answers(
    visit: Visit, small_server: TritonServer, folder: Path
) -> None:
    with hqsam_ui(str(folder), "--url", small_server.grpc_url) as (address, _):
        page = visit(address)
        for path in ("**/api/status", "**/api/folder"):
            page.route(path, lambda route: route.abort(), times=1)
        page.reload()
        shown(page, "coins.png")
        expect(page.locator("#strip li")).to_have_count(3)


@pytest.mark.slow
def test_two_people_do_not_overwrite_each_other(
    visit: Visit, small_server: TritonServer, folder: Path
) -> None:
    with hqsam_ui(str(folder), "--url", small_server.grpc_url) as (address, _):
        one, two = visit(address), visit(address)
        for page in (one, two):
            shown(page, "coins.png")
        click(one, COIN)
        kept(one)
        before = (folder / "coins.png.hqsam.json").read_bytes()
        click(two, OTHER)
        expect(two.locator("#error-text")).to_have_text(re.compile("changed elsewhere"))
        assert (folder / "coins.png.hqsam.json").read_bytes() == before
        two.locator("#retry").click()
        kept(two)
        points = json.loads((folder / "coins.png.hqsam.json").read_bytes())["objects"][0]["points"]
        assert [points[0]["x"], points[0]["y"]] == list(OTHER)


def test_deep_images_are_shown_as_the_model_sees_them(visit: Visit) -> None:
    page = visit()
    values = np.tile(np.linspace(0, 65535, 200).astype(np.uint16), (100, 1))
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF")
    choose(page, "scan.tiff", buffer.getvalue())
    shown(page, "scan.tiff")
    expect(page.locator("#state")).to_have_text(re.compile(r"200 \W 100"))
    width = page.locator("#image").evaluate("image => image.naturalWidth")
    assert width == 200
    expect(page.locator("#strip img")).to_be_visible()


def test_a_phones_heic_file_is_shown_upright_and_segmented(visit: Visit) -> None:
    page = visit()
    with Image.open(COINS) as coins:
        stored = coins.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    open_image(page, "phone.heic", image_files.heic(stored, orientation=6))
    width, height = page.locator("#image").evaluate(
        "image => [image.naturalWidth, image.naturalHeight]"
    )
    assert (width, height) == coins.size
    expect(page.locator("#strip img")).to_be_visible()
    click(page, COIN)
    assert covered(mask(page), coin_at(COIN)) > 0.6


def test_with_a_range_a_dark_microscopes_image_is_shown_and_segmented(
    visit: Visit, small_server: TritonServer
) -> None:
    with Image.open(COINS) as coins:
        values = np.asarray(coins.convert("L")).astype(np.uint16)
    files = {
        "microscope.png": image_files.encoded(Image.fromarray(values * 16)),
        "microscope.tiff": image_files.encoded(Image.fromarray(values * 16), "TIFF"),
    }
    arguments = ("--value-range", "0,4095", "--url", small_server.grpc_url)
    with hqsam_ui(*arguments) as (address, _):
        page = visit(address)
        for name, content in files.items():
            open_image(page, name, content)
            found = screenshot(page.locator("#strip [aria-current=true] img"))
            assert found.max() > 150, "the thumbnail is as bright as what the model sees"
            click(page, COIN)
            assert covered(mask(page), coin_at(COIN)) > 0.6


def refused(page: Page, name: str, content: bytes) -> str:
    choose(page, name, content)
    expect(page.locator("#error")).to_be_visible()
    return page.locator("#error-text").inner_text()


def test_images_that_cannot_be_read_are_refused_with_the_reason(visit: Visit) -> None:
    page = visit()
    heic = b"\0\0\0\x18ftypheic" + bytes(100)
    assert "HEIF" in refused(page, "phone.heic", heic)
    dark = io.BytesIO()
    Image.fromarray(np.full((50, 60), 900, np.uint16)).save(dark, "PNG")
    assert "black" in refused(page, "microscope.png", dark.getvalue())
    # The next image is not affected.
    open_plain(page)
    expect(page.locator("#error")).to_be_hidden()
