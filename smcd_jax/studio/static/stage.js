// The editor's sheet: the picture or its preview, the part that the model sees, the path, and zoom.

import { byId } from "./dom.js";
import { seenPart } from "./geometry.js";
import { boxAt } from "./tracks.js";

const SMALLEST_ZOOM = 0.5;
const LARGEST_ZOOM = 8;
/** Longest side of the canvas in device pixels. */
const LARGEST_CANVAS = 2048;
const SVG = "http://www.w3.org/2000/svg";

/** Draws the sheet and keeps its size; `boxes.js` puts the boxes on it. */
export class Stage {
  /**
   * @param {import("./store.js").Store} store
   * @param {import("./preview.js").Preview} preview
   */
  constructor(store, preview) {
    this.store = store;
    this.preview = preview;
    this.viewport = byId("viewport");
    this.sheet = byId("sheet");
    this.canvas = byId("picture");
    this.context = this.canvas.getContext("2d");
    this.paths = byId("paths");
    this.shades = byId("shades");
    /** Milliseconds of script of the last drawn frames. */
    this.times = [];
    new ResizeObserver(() => this.layout()).observe(this.viewport);
    store.subscribe((changed) => this.update(changed));
    this.listen();
  }

  listen() {
    byId("zoom-in").addEventListener("click", () => this.zoomBy(1.25));
    byId("zoom-out").addEventListener("click", () => this.zoomBy(0.8));
    byId("zoom-fit").addEventListener("click", () => this.zoomTo(1));
    this.viewport.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey) return;
        event.preventDefault();
        this.zoomBy(Math.exp(-event.deltaY / 300), event);
      },
      { passive: false },
    );
  }

  update(changed) {
    const { picture, view } = this.store;
    byId("empty").hidden = Boolean(picture);
    this.sheet.hidden = !picture;
    for (const id of ["zoom-in", "zoom-out", "zoom-fit", "add-box"]) byId(id).disabled = !picture;
    if (!picture) return;
    if (changed.has("picture") || changed.has("video") || view.zoom !== this.zoom) this.layout();
    this.requestDraw();
    this.drawPaths();
  }

  /** Sets the size of the sheet so that the picture fits at zoom 1. */
  layout() {
    const { picture, view } = this.store;
    if (!picture || !this.viewport.clientWidth) return;
    this.zoom = view.zoom;
    const margin = 24;
    const room = [this.viewport.clientWidth - margin, this.viewport.clientHeight - margin];
    const fit = Math.min(room[0] / picture.width, room[1] / picture.height);
    this.scale = fit * view.zoom;
    const [width, height] = [picture.width * this.scale, picture.height * this.scale];
    this.sheet.style.width = `${width}px`;
    this.sheet.style.height = `${height}px`;
    const dense = Math.min(window.devicePixelRatio || 1, LARGEST_CANVAS / Math.max(width, height));
    this.canvas.width = Math.max(1, Math.round(width * dense));
    this.canvas.height = Math.max(1, Math.round(height * dense));
    this.paths.setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
    byId("zoom-value").textContent = `${Math.round(view.zoom * 100)} %`;
    this.drawShades();
    this.requestDraw();
  }

  /** Changes the zoom by a factor, keeping the point below the pointer in place. */
  zoomBy(factor, at = null) {
    this.zoomTo(this.store.view.zoom * factor, at);
  }

  /** Sets the zoom, 0.5 to 8. */
  zoomTo(zoom, at = null) {
    if (!this.store.picture) return;
    const next = Math.min(Math.max(zoom, SMALLEST_ZOOM), LARGEST_ZOOM);
    const bounds = this.viewport.getBoundingClientRect();
    const point = at ? [at.clientX - bounds.left, at.clientY - bounds.top] : [bounds.width / 2, bounds.height / 2];
    const before = this.sheet.getBoundingClientRect();
    const part = [
      (point[0] + bounds.left - before.left) / before.width,
      (point[1] + bounds.top - before.top) / before.height,
    ];
    this.store.show({ zoom: next });
    this.layout();
    const after = this.sheet.getBoundingClientRect();
    this.viewport.scrollLeft += after.left + part[0] * after.width - bounds.left - point[0];
    this.viewport.scrollTop += after.top + part[1] * after.height - bounds.top - point[1];
  }

  /** Returns the point of the picture, in its pixels, below a pointer event. */
  pointOf(event) {
    const bounds = this.sheet.getBoundingClientRect();
    return [(event.clientX - bounds.left) / this.scale, (event.clientY - bounds.top) / this.scale];
  }

  requestDraw() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      const start = performance.now();
      this.draw();
      this.times.push(performance.now() - start);
      if (this.times.length > 240) this.times.shift();
    });
  }

  draw() {
    const { picture, tracks, view } = this.store;
    if (!picture) return;
    this.context.imageSmoothingQuality = "high";
    // Frame 0 of the preview equals the picture, so boxes can be drawn on it.
    const moved = view.preview && tracks.objects.length > 0 && view.frame > 0;
    if (moved) this.preview.draw(this.context, view.frame);
    else this.context.drawImage(picture.image, 0, 0, this.canvas.width, this.canvas.height);
    byId("draft").textContent = moved ? this.preview.note : "";
    this.canvas.dataset.frame = moved ? `${view.frame}` : "picture";
  }

  /** Shades the parts of the picture that the model crops. */
  drawShades() {
    const { picture, video } = this.store;
    const note = byId("fit-note");
    if (!video) return;
    const { width, height } = picture;
    const seen = seenPart([width, height], video);
    const [x1, y1, x2, y2] = [seen[0] / width, seen[1] / height, seen[2] / width, seen[3] / height];
    const inset = [y1, 1 - x2, 1 - y2, x1].map((side) => `${Math.max(side, 0) * 100}%`).join(" ");
    this.shades.style.inset = inset;
    const cropped = x2 - x1 < 0.995 || y2 - y1 < 0.995;
    this.shades.hidden = !cropped;
    const aspectChanges = Math.abs((width / height / video.width) * video.height - 1) > 0.01;
    const other = video.fit === "stretch" ? "stretched" : "with bars";
    const how = cropped ? "cropped" : aspectChanges ? other : "";
    const size = `${video.width} × ${video.height}`;
    note.textContent = [size, `${video.frames} frames`, how].filter(Boolean).join(", ");
    note.title = `The model makes videos of ${size} pixels and ${video.frames} frames from this picture of ${width} × ${height}.`;
  }

  /** Draws the path of the centre and the boxes at keyframes of the selected object. */
  drawPaths() {
    const { tracks, view, selected } = this.store;
    const key = `${view.onion}${view.selected}`;
    if (this.pathTracks === tracks && this.pathKey === key) return;
    [this.pathTracks, this.pathKey] = [tracks, key];
    this.paths.replaceChildren();
    if (!selected || !view.onion || selected.keyframes.length < 2) return;
    const shape = (name, attributes) => {
      const element = document.createElementNS(SVG, name);
      for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
      this.paths.append(element);
    };
    this.paths.style.color = selected.color;
    const centres = [];
    for (let frame = 0; frame < tracks.frames; frame += 1) {
      const [x1, y1, x2, y2] = boxAt(selected, frame);
      centres.push([(x1 + x2) / 2, (y1 + y2) / 2]);
    }
    for (const { box } of selected.keyframes) {
      shape("rect", { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1], class: "ghost" });
    }
    shape("polyline", { points: centres.map((point) => point.join(",")).join(" "), class: "path" });
    for (const [x, y] of centres) {
      shape("path", { d: `M${x} ${y}h0.001`, class: "dot" });
    }
  }
}
