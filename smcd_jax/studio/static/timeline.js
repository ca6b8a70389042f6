// The timeline: a row per object with its keyframes and visible ranges.

import { announce, byId, h, keyed } from "./dom.js";
import {
  boxAt,
  hasKeyframe,
  isVisible,
  moveKeyframe,
  objectOf,
  removeKeyframe,
  setBox,
  setFrames,
  updateObject,
} from "./tracks.js";

const LARGEST_FRAMES = 512;
let gestures = 0;

/** Rows of keyframes, and the ruler. */
export class Timeline {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.store = store;
    this.ruler = byId("ruler");
    this.rows = byId("rows");
    this.scrub = byId("scrub");
    store.subscribe((changed) => this.render(changed));
    this.listen();
  }

  listen() {
    const { store } = this;
    this.scrub.addEventListener("input", () => store.show({ frame: Number(this.scrub.value), playing: false }));
    const lanes = byId("lanes");
    lanes.addEventListener("pointerdown", (event) => this.press(event));
    lanes.addEventListener("pointermove", (event) => this.drag?.(event));
    for (const name of ["pointerup", "pointercancel"]) lanes.addEventListener(name, () => (this.drag = null));
    lanes.addEventListener("keydown", (event) => this.key(event));
    byId("toggle-key").addEventListener("click", () => this.toggleKeyframe());
    const frames = byId("frames");
    frames.addEventListener("change", () => {
      const count = Math.round(Number(frames.value));
      if (!store.tracks || !(count >= 1 && count <= LARGEST_FRAMES)) {
        announce(`The number of frames must be 1 to ${LARGEST_FRAMES}.`, { error: true });
        frames.value = store.tracks?.frames ?? "";
        return;
      }
      store.edit("change the number of frames", setFrames(store.tracks, count));
    });
  }

  /** Adds or removes the keyframe of the selected object at the shown frame. */
  toggleKeyframe() {
    const { store } = this;
    const object = store.selected;
    if (!object) return announce("Select an object first.", { error: true });
    const { frame } = store.view;
    if (!hasKeyframe(object, frame)) {
      store.edit("add a keyframe", setBox(store.tracks, object.id, frame, boxAt(object, frame)));
      return announce(`${object.label}: keyframe at frame ${frame} added.`);
    }
    this.remove(object.id, frame);
  }

  remove(id, frame) {
    const { store } = this;
    const { label, keyframes } = objectOf(store.tracks, id);
    if (keyframes.length === 1)
      return announce(`${label} has only this keyframe; delete the object instead.`, { error: true });
    store.edit("delete a keyframe", removeKeyframe(store.tracks, id, frame));
    announce(`${label}: keyframe at frame ${frame} deleted.`);
  }

  render(changed) {
    const { tracks, view } = this.store;
    byId("timeline").inert = !tracks;
    if (!tracks) return;
    const position = `${((view.frame + 0.5) / tracks.frames) * 100}`;
    byId("lanes").style.setProperty("--at", position);
    this.scrub.max = tracks.frames - 1;
    this.scrub.value = view.frame;
    this.scrub.setAttribute("aria-valuetext", `frame ${view.frame} of ${tracks.frames}`);
    byId("frame-now").textContent = `${view.frame}`;
    byId("frame-last").textContent = `${tracks.frames - 1}`;
    const { selected } = this.store;
    const atKey = Boolean(selected && hasKeyframe(selected, view.frame));
    const toggle = byId("toggle-key");
    toggle.disabled = !selected;
    toggle.setAttribute("aria-pressed", `${atKey}`);
    if (!changed.has("tracks") && !changed.has("picture") && this.selected === view.selected) return;
    this.selected = view.selected;
    if (document.activeElement !== byId("frames")) byId("frames").value = tracks.frames;
    this.renderRuler(tracks.frames);
    keyed(
      this.rows,
      tracks.objects,
      (object) => object.id,
      createRow,
      (row, object) => this.updateRow(row, object),
    );
    byId("no-rows").hidden = tracks.objects.length > 0;
  }

  renderRuler(frames) {
    if (this.ruler.childElementCount === frames) return;
    const every = [1, 2, 5, 10, 20, 50, 100].find((step) => frames / step <= 24);
    const ticks = Array.from({ length: frames }, (_, frame) =>
      h("span", { class: frame % every ? "tick minor" : "tick", text: frame % every ? "" : `${frame}` }),
    );
    this.ruler.replaceChildren(...ticks);
  }

  updateRow(row, object) {
    const { tracks, view } = this.store;
    const { frames } = tracks;
    row.style.setProperty("--color", object.color);
    row.classList.toggle("selected", object.id === view.selected);
    row.querySelector(".row-label").textContent = object.label;
    const lane = row.querySelector(".lane");
    const ranges = object.visible ?? [[0, frames - 1]];
    const bars = lane.querySelector(".bars");
    keyed(
      bars,
      ranges.map((range, index) => ({ range, index })),
      ({ index }) => `${index}`,
      createBar,
      (bar, { range }) => {
        bar.style.left = `${(range[0] / frames) * 100}%`;
        bar.style.width = `${((range[1] - range[0] + 1) / frames) * 100}%`;
        bar.title = `Visible in frames ${range[0]} to ${range[1]}; drag the ends to change`;
      },
    );
    const keys = lane.querySelector(".keys");
    keyed(
      keys,
      object.keyframes,
      ({ frame }) => `${frame}`,
      createKey,
      (key, { frame }) => {
        key.style.left = `${((frame + 0.5) / frames) * 100}%`;
        key.classList.toggle("hidden-key", !isVisible(object, frame));
        key.setAttribute("aria-label", `${object.label}: keyframe at frame ${frame}`);
      },
    );
  }

  frameAt(event, lane) {
    const bounds = lane.getBoundingClientRect();
    const frame = Math.floor(((event.clientX - bounds.left) / bounds.width) * this.store.tracks.frames);
    return Math.min(Math.max(frame, 0), this.store.tracks.frames - 1);
  }

  press(event) {
    const { store } = this;
    if (!store.tracks || event.button !== 0) return;
    const id = event.target.closest(".row")?.dataset.key ?? null;
    if (id) store.show({ selected: id });
    const lane = event.target.closest(".lane, .ruler-lane");
    if (!lane) return;
    event.preventDefault();
    byId("lanes").setPointerCapture(event.pointerId);
    const key = event.target.closest(".keyframe");
    gestures += 1;
    if (key) return this.pressKey(key, lane, id);
    if (event.target.dataset.end) return this.pressEnd(event.target, lane, id);
    const seek = (at) => store.show({ frame: this.frameAt(at, lane), playing: false });
    seek(event);
    this.drag = seek;
  }

  pressKey(key, lane, id) {
    const { store } = this;
    const gesture = `key ${gestures}`;
    let from = Number(key.dataset.key);
    // A keyframe that is dragged over others replaces only the one on which it is dropped.
    const start = store.tracks;
    const origin = from;
    key.focus();
    store.show({ frame: from, playing: false });
    this.drag = (event) => {
      const to = this.frameAt(event, lane);
      if (to === from) return;
      store.edit("move a keyframe", moveKeyframe(start, id, origin, to), gesture);
      store.show({ frame: to });
      from = to;
    };
  }

  pressEnd(handle, lane, id) {
    const { store } = this;
    const gesture = `range ${gestures}`;
    const index = Number(handle.closest(".bar").dataset.key);
    const side = Number(handle.dataset.end);
    this.drag = (event) => {
      const { frames } = store.tracks;
      const ranges = (objectOf(store.tracks, id).visible ?? [[0, frames - 1]]).map((range) => [...range]);
      const frame = this.frameAt(event, lane);
      ranges[index][side] = side === 0 ? Math.min(frame, ranges[index][1]) : Math.max(frame, ranges[index][0]);
      const all = ranges.length === 1 && ranges[0][0] === 0 && ranges[0][1] === frames - 1;
      store.edit("change visible frames", updateObject(store.tracks, id, { visible: all ? null : ranges }), gesture);
    };
  }

  key(event) {
    const key = event.target.closest(".keyframe");
    if (!key || event.ctrlKey || event.metaKey) return;
    const { store } = this;
    const id = key.closest(".row").dataset.key;
    const frame = Number(key.dataset.key);
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) {
      event.preventDefault();
      event.stopPropagation();
      const to = frame + step;
      const object = objectOf(store.tracks, id);
      if (to < 0 || to >= store.tracks.frames || hasKeyframe(object, to)) return;
      store.edit("move a keyframe", moveKeyframe(store.tracks, id, frame, to), `key ${id}`);
      store.show({ frame: to });
      requestAnimationFrame(() => this.rows.querySelector(`[data-key="${id}"] .keyframe[data-key="${to}"]`)?.focus());
      announce(`${object.label}: keyframe moved to frame ${to}.`);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      event.stopPropagation();
      this.remove(id, frame);
      this.scrub.focus();
    } else if (event.key === "Enter") {
      event.preventDefault();
      store.show({ frame, selected: id, playing: false });
    }
  }
}

function createRow() {
  const lane = h("div", { class: "lane" }, h("div", { class: "bars" }), h("div", { class: "keys" }));
  return h("div", { class: "row" }, h("span", { class: "row-label" }), lane);
}

function createBar() {
  const ends = [0, 1].map((end) => h("span", { class: end ? "bar-end right" : "bar-end left", "data-end": `${end}` }));
  return h("div", { class: "bar" }, ...ends);
}

function createKey() {
  return h("button", { class: "keyframe", type: "button", title: "Drag to another frame; Delete removes it" });
}
