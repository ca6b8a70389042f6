// The list of objects, with the fields of the selected one, and warnings.

import * as api from "./api.js";
import { announce, byId, debounce, h, keyed, setValue } from "./dom.js";
import { icon } from "./icons.js";
import { INTERPOLATIONS } from "./interpolation.js";
import {
  boxAt,
  copyObject,
  formatRanges,
  objectOf,
  parseRanges,
  removeObject,
  setBox,
  toTrackFile,
  updateObject,
} from "./tracks.js";

const SIDES = ["left", "top", "width", "height"];
const WAIT = 200;

/** One list item per object. */
export class ObjectList {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.store = store;
    this.list = byId("objects");
    this.warnings = [];
    const check = debounce(() => this.check(), WAIT);
    store.subscribe((changed) => {
      if (changed.has("model")) this.showModel();
      if (changed.has("tracks") || changed.has("view") || changed.has("picture")) this.render();
      if (changed.has("tracks") || changed.has("picture") || changed.has("model")) check();
    });
  }

  render() {
    const { tracks } = this.store;
    byId("no-objects").hidden = Boolean(tracks?.objects.length);
    byId("object-count").textContent = tracks?.objects.length ? `${tracks.objects.length}` : "";
    if (!tracks) return;
    keyed(
      this.list,
      tracks.objects,
      (object) => object.id,
      (object) => this.create(object.id),
      (item, object) => this.update(item, object),
    );
  }

  /** Shows a note if the chosen model does not use boxes. */
  showModel() {
    const { model } = this.store;
    byId("no-tracks").hidden = model.takes_tracks;
    byId("no-tracks").textContent = `${model.name} does not use boxes; they only move the preview.`;
  }

  create(id) {
    const { store } = this;
    const edit = (name, fields, gesture = null) => store.edit(name, updateObject(store.tracks, id, fields), gesture);
    const color = h("input", { type: "color", class: "color", "aria-label": "Colour" });
    color.addEventListener("input", () => edit("change the colour", { color: color.value }, `color ${id}`));
    const label = h("input", {
      type: "text",
      class: "label",
      "aria-label": "Label",
      autocomplete: "off",
      maxLength: 200,
    });
    label.addEventListener("focus", () => {
      store.show({ selected: id });
      label.select();
    });
    label.addEventListener("input", () => {
      if (label.value.trim()) edit("rename", { label: label.value }, `label ${id}`);
    });
    label.addEventListener("keydown", (event) => {
      if (event.key === "Enter") byId("boxes").querySelector(`[data-key="${id}"]`)?.focus();
    });
    label.addEventListener("blur", () => (label.value = objectOf(store.tracks, id)?.label.trim() ?? ""));
    const tools = [
      this.tool("copy", "Copy the object with its track", () => this.copy(id)),
      this.tool("trash", "Delete the object", () => this.remove(id)),
    ];
    const head = h("div", { class: "object-head" }, color, label, ...tools);
    const item = h("li", { class: "object" }, head, this.details(id, edit));
    item.addEventListener("pointerdown", () => store.show({ selected: id }));
    item.addEventListener("focusin", () => store.show({ selected: id }));
    return item;
  }

  tool(name, title, onclick) {
    return h("button", { class: "tool", type: "button", title, "aria-label": title, onclick }, icon(name));
  }

  details(id, edit) {
    const { store } = this;
    const kinds = INTERPOLATIONS.map((kind) => h("option", { value: kind, text: kind }));
    const interpolation = h("select", { class: "interpolation" }, ...kinds);
    interpolation.addEventListener("change", () =>
      edit("change the interpolation", { interpolation: interpolation.value }),
    );
    const visible = h("input", { type: "text", class: "visible", placeholder: "all frames", autocomplete: "off" });
    visible.addEventListener("change", () => {
      try {
        edit("change visible frames", { visible: parseRanges(visible.value, store.tracks.frames) });
      } catch (error) {
        announce(error.message, { error: true });
      }
      visible.value = formatRanges(objectOf(store.tracks, id).visible);
    });
    const sides = SIDES.map((side) => {
      const field = h("input", { type: "number", class: side, step: "any", "aria-label": `${side} in pixels` });
      field.addEventListener("change", () => this.setSide(id, side, Number(field.value)));
      return h("label", { class: "side" }, h("span", { text: side }), field);
    });
    return h(
      "div",
      { class: "object-details" },
      h("p", { class: "hint unnamed", text: "Name it: the model reads the name, such as rocket." }),
      h(
        "label",
        { class: "field", title: "How the box moves between keyframes" },
        h("span", { text: "Motion" }),
        interpolation,
      ),
      h(
        "label",
        { class: "field", title: "Such as 0-3, 6; empty for all frames" },
        h("span", { text: "Visible" }),
        visible,
      ),
      h("div", { class: "sides", role: "group", "aria-label": "Box at the shown frame" }, ...sides),
    );
  }

  setSide(id, side, value) {
    const { store } = this;
    const { frame } = store.view;
    let [x1, y1, x2, y2] = boxAt(objectOf(store.tracks, id), frame);
    if (!Number.isFinite(value)) return;
    if (side === "left") [x1, x2] = [value, value + x2 - x1];
    if (side === "top") [y1, y2] = [value, value + y2 - y1];
    if (side === "width") x2 = x1 + Math.max(value, 0);
    if (side === "height") y2 = y1 + Math.max(value, 0);
    store.edit("change the box", setBox(store.tracks, id, frame, [x1, y1, x2, y2]));
  }

  update(item, object) {
    const { view } = this.store;
    const selected = object.id === view.selected;
    item.classList.toggle("selected", selected);
    item.style.setProperty("--color", object.color);
    setField(item, ".color", object.color);
    const label = item.querySelector(".label");
    if (document.activeElement !== label) label.value = object.label;
    item.querySelector(".object-details").hidden = !selected;
    if (!selected) return;
    item.querySelector(".unnamed").hidden = !/^object \d+$/.test(object.label);
    setField(item, ".interpolation", object.interpolation);
    setField(item, ".visible", formatRanges(object.visible));
    const [x1, y1, x2, y2] = boxAt(object, view.frame);
    // Whole pixels, except for small pictures, where they would be too coarse.
    const digits = Math.min(...this.store.tracks.size) < 100 ? 1 : 0;
    [x1, y1, x2 - x1, y2 - y1].forEach((value, index) =>
      setField(item, `.${SIDES[index]}`, `${Number(value.toFixed(digits))}`),
    );
  }

  /** Copies an object with its track and selects the copy. */
  copy(id) {
    const { tracks, id: copied } = copyObject(this.store.tracks, id);
    this.store.edit("copy an object", tracks);
    this.store.show({ selected: copied });
    announce(`${objectOf(tracks, copied).label} copied with its track.`);
  }

  remove(id) {
    const { label } = objectOf(this.store.tracks, id);
    this.store.edit(`delete ${label}`, removeObject(this.store.tracks, id));
    announce(`${label} deleted. Ctrl+Z brings it back.`);
    byId("add-box").focus();
  }

  /** Asks the server for warnings about the document. */
  async check() {
    const { tracks, model } = this.store;
    if (!tracks?.objects.length || !model) return this.showWarnings([]);
    try {
      const { warnings } = await api.checkTracks(toTrackFile(tracks), model.name);
      if (tracks === this.store.tracks) this.showWarnings(warnings);
    } catch (error) {
      this.showWarnings([{ message: error.message, object: null, frame: null }]);
    }
  }

  showWarnings(warnings) {
    this.warnings = warnings;
    const { tracks } = this.store;
    const items = warnings.map(({ message, object, frame }) => {
      const index = typeof object === "number" ? object : null;
      const go = () => {
        const selected = index === null ? this.store.view.selected : (tracks.objects[index]?.id ?? null);
        this.store.show({ selected, frame: frame ?? this.store.view.frame, playing: false });
      };
      const place = index !== null || frame !== null;
      const text = h(place ? "button" : "span", {
        class: "warning-text",
        text: message,
        ...(place ? { type: "button", onclick: go } : {}),
      });
      return h("li", { class: "warning" }, icon("warning"), text);
    });
    byId("warnings").replaceChildren(...items);
  }
}

function setField(item, selector, value) {
  const field = item.querySelector(selector);
  if (document.activeElement !== field || field.type === "color" || field.tagName === "SELECT") setValue(field, value);
}
