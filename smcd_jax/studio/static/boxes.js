// The boxes on the sheet: drawing, moving and resizing by pointer and keyboard.

import { announce, byId, h, keyed } from "./dom.js";
import { describeBox, middleBox, movedBox, resizedBox } from "./geometry.js";
import { addObject, boxAt, hasKeyframe, isVisible, objectOf, removeObject, setBox } from "./tracks.js";

const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
/** Screen pixels that a pointer moves before a press becomes a drag. */
const DRAG_START = 4;

let gestures = 0;

/** Boxes of the shown frame as focusable elements over the picture. */
export class BoxLayer {
  /**
   * @param {import("./store.js").Store} store
   * @param {import("./stage.js").Stage} stage
   */
  constructor(store, stage) {
    this.store = store;
    this.stage = stage;
    this.layer = byId("boxes");
    this.pointers = new Map();
    store.subscribe((changed) => {
      if (changed.has("tracks") || changed.has("view") || changed.has("picture")) this.render();
    });
    const sheet = byId("sheet");
    sheet.addEventListener("pointerdown", (event) => this.press(event));
    sheet.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) sheet.addEventListener(name, (event) => this.release(event));
    this.layer.addEventListener("keydown", (event) => this.key(event));
    this.layer.addEventListener("focusin", (event) => {
      const id = event.target.closest(".box")?.dataset.key;
      if (id) store.show({ selected: id });
    });
    byId("add-box").addEventListener("click", () => this.addInMiddle());
  }

  render() {
    const { tracks, picture, view } = this.store;
    if (!picture) return;
    const shown = tracks.objects.filter((object) => isVisible(object, view.frame));
    const selectedLast = [...shown].sort((a, b) => (a.id === view.selected) - (b.id === view.selected));
    keyed(
      this.layer,
      shown,
      (object) => object.id,
      createBox,
      (element, object) => {
        const [x1, y1, x2, y2] = boxAt(object, view.frame);
        const { style } = element;
        style.left = `${(x1 / picture.width) * 100}%`;
        style.top = `${(y1 / picture.height) * 100}%`;
        style.width = `${((x2 - x1) / picture.width) * 100}%`;
        style.height = `${((y2 - y1) / picture.height) * 100}%`;
        style.zIndex = selectedLast.indexOf(object);
        style.setProperty("--color", object.color);
        const { scale } = this.stage;
        element.classList.toggle("high", y1 * scale < 18);
        element.classList.toggle("narrow", (x2 - x1) * scale < 44);
        element.classList.toggle("low", (y2 - y1) * scale < 44);
        element.classList.toggle("selected", object.id === view.selected);
        element.classList.toggle("key", hasKeyframe(object, view.frame));
        element.querySelector(".tag").textContent = object.label;
        const key = hasKeyframe(object, view.frame) ? ", keyframe" : "";
        element.setAttribute(
          "aria-label",
          `${object.label}, frame ${view.frame}${key}: ${describeBox([x1, y1, x2, y2])}`,
        );
      },
    );
  }

  /** Adds a box in the middle of the picture and focuses it. */
  addInMiddle() {
    const { picture, tracks } = this.store;
    if (!picture) return;
    this.add(middleBox([picture.width, picture.height], tracks.objects.length % 5));
    requestAnimationFrame(() => this.focus(this.store.view.selected));
  }

  add(box, gesture = null) {
    const { tracks, id } = addObject(this.store.tracks, box);
    this.store.edit("add a box", tracks, gesture);
    this.store.show({ selected: id, playing: false });
    if (!gesture) announce("Box added. Arrow keys move it, Alt and arrow keys resize it.");
    return id;
  }

  /** Focuses the box of an object. */
  focus(id) {
    this.layer.querySelector(`[data-key="${id}"]`)?.focus();
  }

  press(event) {
    this.pointers.set(event.pointerId, event);
    if (this.pointers.size === 2) return this.startPinch();
    if (event.button !== 0 || this.pointers.size > 2) return;
    event.preventDefault();
    byId("sheet").setPointerCapture(event.pointerId);
    const element = event.target.closest(".box");
    const handle = event.target.dataset.handle;
    gestures += 1;
    this.drag = {
      pointer: event.pointerId,
      gesture: `drag ${gestures}`,
      start: this.stage.pointOf(event),
      client: [event.clientX, event.clientY],
      id: element?.dataset.key,
      handle,
      moved: false,
    };
    this.store.show({ playing: false });
    if (element) {
      this.store.show({ selected: this.drag.id });
      element.focus({ preventScroll: true });
      this.drag.box = boxAt(objectOf(this.store.tracks, this.drag.id), this.store.view.frame);
    }
  }

  move(event) {
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, event);
    if (this.pinch) return this.movePinch();
    const { drag } = this;
    if (!drag || drag.pointer !== event.pointerId) return;
    if (!drag.moved) {
      if (Math.hypot(event.clientX - drag.client[0], event.clientY - drag.client[1]) < DRAG_START) return;
      drag.moved = true;
    }
    const [x, y] = this.stage.pointOf(event);
    const [dx, dy] = [x - drag.start[0], y - drag.start[1]];
    const { store } = this;
    if (drag.id && drag.box) {
      const box = drag.handle ? resizedBox(drag.box, drag.handle, dx, dy, event.shiftKey) : movedBox(drag.box, dx, dy);
      const name = drag.handle ? "resize" : "move";
      return store.edit(name, setBox(store.tracks, drag.id, store.view.frame, box), drag.gesture);
    }
    const box = this.drawnBox(drag.start, [x, y]);
    if (drag.id) store.edit("add a box", setBox(store.tracks, drag.id, 0, box), drag.gesture);
    else drag.id = this.add(box, drag.gesture);
  }

  /** Box between two points, limited to the picture. */
  drawnBox(start, end) {
    const { width, height } = this.store.picture;
    const inside = ([x, y]) => [Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)];
    return [...inside(start), ...inside(end)];
  }

  release(event) {
    this.pointers.delete(event.pointerId);
    if (this.pinch && this.pointers.size < 2) this.pinch = null;
    const { drag, store } = this;
    if (!drag || drag.pointer !== event.pointerId) return;
    this.drag = null;
    if (!drag.moved) {
      if (!drag.id) store.show({ selected: null });
      return;
    }
    const object = objectOf(store.tracks, drag.id);
    if (!object) return;
    if (!drag.box) {
      this.focus(drag.id);
      this.hint(object);
    } else announce(`${object.label}, frame ${store.view.frame}: ${describeBox(boxAt(object, store.view.frame))}`);
  }

  /** Shows the next step after a new box. */
  hint(object) {
    const last = this.store.tracks.frames - 1;
    const next = "Now drag the box to where it is in the last frame, then press Space to play.";
    if (this.store.view.frame === last) return announce(next);
    announce("Now go to the last frame and drag the box to where it ends.");
    const go = h("button", { class: "small", type: "button", text: `Go to frame ${last}` });
    go.addEventListener("click", () => {
      this.store.show({ frame: last });
      this.focus(object.id);
      announce(next);
    });
    byId("status").append(go);
  }

  startPinch() {
    // A second finger ends the drag of the first one.
    if (this.drag?.moved) this.store.undo();
    this.drag = null;
    this.pinch = { ...pinchOf(this.pointers), zoom: this.store.view.zoom };
  }

  movePinch() {
    const now = pinchOf(this.pointers);
    this.stage.viewport.scrollLeft += this.pinch.clientX - now.clientX;
    this.stage.viewport.scrollTop += this.pinch.clientY - now.clientY;
    [this.pinch.clientX, this.pinch.clientY] = [now.clientX, now.clientY];
    this.stage.zoomTo((this.pinch.zoom * now.distance) / this.pinch.distance, now);
  }

  key(event) {
    const id = event.target.closest(".box")?.dataset.key;
    if (!id || event.ctrlKey || event.metaKey) return;
    const { store } = this;
    const { frame } = store.view;
    const arrow = ARROWS[event.key];
    if (arrow) {
      event.preventDefault();
      const [dx, dy] = arrow.map((step) => step * (event.shiftKey ? 10 : 1));
      const box = boxAt(objectOf(store.tracks, id), frame);
      const next = event.altKey ? resizedBox(box, "se", dx, dy) : movedBox(box, dx, dy);
      const name = event.altKey ? "resize" : "move";
      store.edit(name, setBox(store.tracks, id, frame, next), `${name} ${id} ${frame}`);
      announce(describeBox(boxAt(objectOf(store.tracks, id), frame)));
    } else if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      event.stopPropagation();
      const { label } = objectOf(store.tracks, id);
      store.edit(`delete ${label}`, removeObject(store.tracks, id));
      announce(`${label} deleted. Ctrl+Z brings it back.`);
      byId("add-box").focus();
    }
  }
}

function createBox(object) {
  const handles = HANDLES.map((handle) => h("span", { class: `handle ${handle}`, "data-handle": handle }));
  const tag = h("span", { class: "tag", text: object.label });
  return h("div", { class: "box", tabIndex: 0, role: "group", "aria-roledescription": "box" }, tag, ...handles);
}

function pinchOf(pointers) {
  const [a, b] = [...pointers.values()];
  return {
    distance: Math.max(Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY), 1),
    clientX: (a.clientX + b.clientX) / 2,
    clientY: (a.clientY + b.clientY) / 2,
  };
}
