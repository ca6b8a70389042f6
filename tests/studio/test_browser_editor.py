"""The studio's editor in a browser: mouse, touch, keyboard, undo, import, warnings and layout."""

import numpy as np
import pytest

from tests.studio.studio_page import ROCKET_BOXES


def test_undo_and_redo_restore_every_step(studio, rocket):
    studio.open(rocket / "img.png")
    empty = studio.tracks
    studio.drag(ROCKET_BOXES[0][:2], ROCKET_BOXES[0][2:])
    drawn = studio.tracks
    studio.go_to(7)
    studio.drag((322, 260), (322, 150))
    moved = studio.tracks
    assert [len(state["objects"]) for state in (empty, drawn, moved)] == [0, 1, 1]
    studio.page.click("#undo")
    assert studio.tracks == drawn
    studio.page.keyboard.press("Control+z")
    assert studio.tracks == empty
    for _ in range(2):
        studio.page.keyboard.press("Control+Shift+z")
    assert studio.tracks == moved


def test_a_handle_resizes_and_a_copy_keeps_the_track(studio, rocket):
    studio.open(rocket / "img.png")
    studio.drag((100, 100), (200, 200))
    studio.drag((200, 200), (260, 240))  # drags the handle at the lower right corner
    np.testing.assert_allclose(studio.tracks["objects"][0]["keyframes"][0]["box"], (100, 100, 260, 240), atol=2)
    studio.go_to(7)
    studio.drag((150, 150), (350, 250))
    studio.page.locator("#objects .selected .tool").first.click()
    first, copy = studio.tracks["objects"]
    assert [item["frame"] for item in copy["keyframes"]] == [item["frame"] for item in first["keyframes"]] == [0, 7]
    assert first["color"] != copy["color"]
    assert first["id"] != copy["id"]


def test_a_mot_file_is_imported(studio, rocket, tmp_path):
    rows = [f"{frame + 1},{track},{20 + 9 * frame},{100 * track},40,50,1,1,1" for frame in range(8) for track in (1, 2)]
    (tmp_path / "gt.txt").write_text("\n".join(rows) + "\n")
    studio.open(rocket / "img.png")
    studio.page.set_input_files("#tracks-file", str(tmp_path / "gt.txt"))
    studio.until("studio.store.tracks.objects.length === 2")
    first, second = (item["keyframes"] for item in studio.tracks["objects"])
    # MOT pixel coordinates start at 1.
    np.testing.assert_allclose(first[0]["box"], (19, 99, 59, 149), atol=0.01)
    np.testing.assert_allclose(second[-1]["box"], (82, 199, 122, 249), atol=0.01)
    studio.page.click("#undo")
    assert studio.tracks["objects"] == []


def test_the_keyboard_alone_makes_a_motion(studio, rocket):
    studio.open(rocket / "img.png")
    press = studio.page.keyboard.press
    press("b")
    studio.page.wait_for_selector(".box:focus")
    start = studio.tracks["objects"][0]["keyframes"][0]["box"]
    press("ArrowRight")
    press("Shift+ArrowDown")
    press("Alt+ArrowLeft")
    box = studio.tracks["objects"][0]["keyframes"][0]["box"]
    np.testing.assert_allclose(np.subtract(box, start), (1, 10, 0, 10), atol=0.02)
    press("End")
    studio.page.locator(".box").focus()
    press("Shift+ArrowUp")
    assert studio.keyframes(0) == [0, 7]
    press(",")
    press("k")
    assert studio.keyframes(0) == [0, 6, 7]
    press("k")
    press(" ")
    studio.until("studio.store.view.playing")
    press(" ")
    press("Control+d")
    assert len(studio.tracks["objects"]) == 2
    press("Delete")
    assert len(studio.tracks["objects"]) == 1
    reached = set()
    for _ in range(90):
        press("Tab")
        reached.add(studio.js("document.activeElement.id || document.activeElement.classList[0]"))
    assert {"open", "export", "add-box", "box", "scrub", "keyframe", "play", "prompt", "generate"} <= reached


def test_the_page_has_names_for_all_controls(studio, rocket):
    studio.open(rocket / "img.png")
    studio.draw(ROCKET_BOXES[0], "rocket")
    nameless = studio.js("""() => [...document.querySelectorAll("button, input, select, textarea, .box, [role=tab]")]
        .filter((item) => item.checkVisibility() && item.type !== "file")
        .filter((item) => !(item.getAttribute("aria-label") || item.textContent.trim() || item.labels?.length))
        .map((item) => item.outerHTML)""")
    assert nameless == []


@pytest.mark.parametrize("size", [(1440, 900), (1024, 768), (390, 844)])
def test_nothing_is_cut_or_overlaps(studio, rocket, size, request):
    studio.page.set_viewport_size({"width": size[0], "height": size[1]})
    studio.open(rocket / "img.png")
    studio.draw(ROCKET_BOXES[0], "rocket")
    wrong = studio.js("""() => {
        scrollTo(0, 0);  // the bar stays at the top of the window
        const shown = [...document.querySelectorAll("button, input, select, textarea, h2, summary")]
            .filter((item) => item.checkVisibility() && item.id !== "scrub" && !item.closest("#boxes, .keys"));
        const places = shown.map((item) => [item, item.getBoundingClientRect()]);
        const cut = places.filter(([item, at]) => at.left < -1 || at.right > innerWidth + 1 ||
            (item.tagName === "BUTTON" && item.scrollWidth > item.clientWidth + 1));
        const over = [];
        for (const [a, p] of places) for (const [b, q] of places) {
            if (a === b || a.contains(b) || b.contains(a) || !p.width || !q.width) continue;
            const width = Math.min(p.right, q.right) - Math.max(p.left, q.left);
            const height = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
            const sides = a.closest(".panel") === b.closest(".panel");
            if (sides && width > 1 && height > 1) over.push(a.outerHTML + b.outerHTML);
        }
        return [...cut.map(([item]) => item.outerHTML), ...over];
    }""")
    assert wrong == []
    assert studio.js("document.documentElement.scrollWidth <= innerWidth")


def test_a_keyframe_is_dragged_along_the_timeline(studio, rocket):
    studio.open(rocket / "img.png")
    studio.draw_motion(ROCKET_BOXES, "rocket")
    lane = studio.page.locator(".row .lane").last.bounding_box()
    key = studio.page.locator(".keyframe[data-key='3']").bounding_box()
    studio.page.mouse.move(key["x"] + key["width"] / 2, key["y"] + key["height"] / 2)
    studio.page.mouse.down()
    studio.page.mouse.move(lane["x"] + lane["width"] * 5.5 / 8, key["y"] + 5, steps=5)
    studio.page.mouse.up()
    assert studio.keyframes(0) == [0, 5, 7]
    studio.page.click("#undo")
    assert studio.keyframes(0) == [0, 3, 7]


def test_two_fingers_zoom_and_one_draws(studio, rocket):
    studio.open(rocket / "img.png")
    touch = """([name, id, x, y]) => document.getElementById("sheet").dispatchEvent(new PointerEvent(name, {
        pointerId: id, pointerType: "touch", clientX: x, clientY: y, button: 0, bubbles: true, cancelable: true }))"""

    def fingers(name, *points):
        for index, point in enumerate(points):
            studio.js(touch, [name, 10 + index, *studio.point(*point)])

    studio.js("Element.prototype.setPointerCapture = () => {}")  # synthetic events have no pointer to capture
    fingers("pointerdown", (200, 200), (300, 200))
    fingers("pointermove", (150, 200), (350, 200))
    fingers("pointerup", (150, 200), (350, 200))
    assert studio.js("studio.store.view.zoom") > 1.5
    assert studio.tracks["objects"] == []
    studio.page.keyboard.press("0")
    fingers("pointerdown", (200, 200))
    fingers("pointermove", (260, 280))
    fingers("pointerup", (260, 280))
    np.testing.assert_allclose(studio.tracks["objects"][0]["keyframes"][0]["box"], (200, 200, 260, 280), atol=1)


def test_warnings_name_the_object_and_lead_to_the_frame(studio, rocket):
    studio.open(rocket / "img.png")
    studio.draw((480, 180, 600, 300), "light")
    studio.go_to(7)
    studio.drag((540, 240), (625, 240))
    warning = studio.page.locator(".warning-text").first
    warning.wait_for()
    assert "light" in warning.inner_text()
    studio.go_to(0)
    warning.click()
    assert studio.js("studio.store.view.frame") > 2  # the first frame in which the box leaves the picture
    studio.go_to(0)
    for _ in range(4):
        studio.page.click("#add-box")
    before = studio.page.locator(".warning").count()
    studio.until(f"document.querySelectorAll('.warning').length > {before}")
