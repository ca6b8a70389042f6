// The player of results: frame stepping, boxes, side by side with the preview, downloads.

import { draftLayers, drawFrame } from "./compose.js";
import { byId, h } from "./dom.js";
import { icon } from "./icons.js";
import { loadImage, movements, serverLayers } from "./preview.js";
import { boxesOverTime, fromTrackFile } from "./tracks.js";

/** Plays the videos of one entry of the history. */
export class Player {
  constructor() {
    this.video = byId("video");
    this.boxes = byId("result-boxes");
    this.slider = byId("result-scrub");
    this.compare = byId("compare");
    this.frame = 0;
    this.listen();
  }

  listen() {
    byId("result-play").addEventListener("click", () => this.toggle());
    byId("result-back").addEventListener("click", () => this.step(-1));
    byId("result-on").addEventListener("click", () => this.step(1));
    this.slider.addEventListener("input", () => this.seek(Number(this.slider.value)));
    for (const name of ["boxes", "compare"]) {
      const button = byId(`result-show-${name}`);
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", `${button.getAttribute("aria-pressed") !== "true"}`);
        this.layout();
      });
    }
    for (const name of ["play", "pause"]) this.video.addEventListener(name, () => this.showState());
    this.video.addEventListener("loadeddata", () => this.layout());
    new ResizeObserver(() => this.layout()).observe(byId("result-screen"));
  }

  /** Whether a result is open. */
  get entry() {
    return this.shown ?? null;
  }

  /**
   * Opens an entry of the history.
   * @param {Object} entry
   * @param {number} index Number of the video.
   */
  open(entry, index = 0) {
    this.shown = entry;
    this.index = index;
    const video = entry.videos[index];
    const { tracks } = entry.settings;
    // Boxes are fractions of the picture, so the size of the document does not matter.
    this.tracks = tracks ? fromTrackFile(tracks, tracks.size) : null;
    this.places = this.tracks ? boxesOverTime(this.tracks, video.num_frames) : null;
    this.layers = null;
    this.video.src = video.mp4;
    this.slider.max = video.num_frames - 1;
    byId("result-title").textContent = entry.settings.prompt || "Without a prompt";
    byId("result-facts").textContent =
      `${video.width} × ${video.height}, ${video.num_frames} frames, seed ${video.seed}`;
    byId("result-show-boxes").hidden = byId("result-show-compare").hidden = !this.tracks;
    this.showChoice();
    this.showDownloads(video);
    this.seek(0);
    this.video.play().catch(() => this.showState());
    this.follow();
  }

  showChoice() {
    const { videos } = this.shown;
    const choose = byId("result-choice");
    choose.hidden = videos.length < 2;
    const buttons = videos.map((video, index) =>
      h("button", {
        type: "button",
        class: "small",
        text: `${index + 1}`,
        "aria-pressed": `${index === this.index}`,
        "aria-label": `Video ${index + 1}, seed ${video.seed}`,
        onclick: () => this.open(this.shown, index),
      }),
    );
    choose.replaceChildren(...buttons);
  }

  showDownloads(video) {
    const files = [
      ["mp4", video.mp4],
      ["gif", video.gif],
      ["with boxes", video.boxes_mp4],
      ["frames", video.frames],
      ["json", video.json],
      ["tracks.json", this.shown.tracks],
    ];
    const links = files
      .filter(([, url]) => url)
      .map(([name, url]) => h("a", { class: "button small", href: url, download: "" }, icon("download"), name));
    byId("downloads").replaceChildren(...links);
  }

  get numFrames() {
    return this.shown?.videos[this.index].num_frames ?? 1;
  }

  get fps() {
    return this.shown?.videos[this.index].fps ?? 8;
  }

  toggle() {
    if (this.video.paused) this.video.play();
    else this.video.pause();
  }

  step(by) {
    this.video.pause();
    this.seek((this.frame + by + this.numFrames) % this.numFrames);
  }

  /** Shows one frame; the time is the middle of it, so that rounding does not show a neighbour. */
  seek(frame) {
    this.frame = frame;
    this.video.currentTime = (frame + 0.5) / this.fps;
    this.update();
  }

  /** Updates the boxes while the video plays. */
  follow() {
    cancelAnimationFrame(this.timer);
    const tick = () => {
      if (!this.video.paused) {
        const frame = Math.min(Math.floor(this.video.currentTime * this.fps), this.numFrames - 1);
        if (frame !== this.frame) {
          this.frame = frame;
          this.update();
        }
      }
      this.timer = requestAnimationFrame(tick);
    };
    tick();
  }

  /** Stops playing, when the user goes back to the editor. */
  pause() {
    this.video.pause();
    cancelAnimationFrame(this.timer);
  }

  showState() {
    const paused = this.video.paused;
    byId("result-play").replaceChildren(icon(paused ? "play" : "pause"));
    byId("result-play").setAttribute("aria-label", paused ? "Play" : "Pause");
  }

  isOn(name) {
    const button = byId(`result-show-${name}`);
    return !button.hidden && button.getAttribute("aria-pressed") === "true";
  }

  /** Sizes video and preview so that they fit side by side. */
  layout() {
    if (!this.shown) return;
    const screen = byId("result-screen");
    const video = this.shown.videos[this.index];
    const both = this.isOn("compare");
    byId("compare-side").hidden = !both;
    // Choose the arrangement with the larger pictures; margins and captions take the remaining space.
    const [width, height] = [screen.clientWidth - 24, screen.clientHeight - 24];
    const scaleOf = (columns, rows) =>
      Math.min((width - 16 * (columns - 1)) / columns / video.width, (height - 28 * rows) / rows / video.height);
    const stacked = both && scaleOf(1, 2) > scaleOf(2, 1);
    const scale = Math.max(both ? scaleOf(stacked ? 1 : 2, stacked ? 2 : 1) : scaleOf(1, 1), 0);
    screen.classList.toggle("stacked", stacked);
    for (const element of [byId("video-frame"), byId("compare")]) {
      element.style.width = `${video.width * scale}px`;
      element.style.height = `${video.height * scale}px`;
      // The pixels of a very small video are not smoothed.
      element.classList.toggle("pixels", scale > 4);
    }
    if (both) this.prepareCompare(video);
    this.update();
  }

  async prepareCompare(video) {
    const entry = this.shown;
    if (this.layers?.entry === entry) return;
    this.layers = { entry, ready: false };
    const image = await loadImage(entry.picture);
    const { first, frames } = movements(this.tracks, video.num_frames);
    if (this.shown !== entry) return;
    const drafts = draftLayers({ width: image.width, height: image.height, image }, first);
    const side = Math.min(1024 / Math.max(image.width, image.height), 1);
    this.compare.width = Math.round(image.width * side);
    this.compare.height = Math.round(image.height * side);
    this.layers = { entry, ready: true, layers: drafts, frames };
    this.update();
    // After a restart, the server may no longer have the picture; the draft is shown then.
    const better = await serverLayers(entry.settings.picture, drafts).catch(() => drafts);
    if (this.shown !== entry) return;
    this.layers.layers = better;
    this.update();
  }

  update() {
    this.slider.value = this.frame;
    this.slider.setAttribute("aria-valuetext", `frame ${this.frame}`);
    byId("result-frame").textContent = `${this.frame} / ${this.numFrames - 1}`;
    this.boxes.hidden = !this.isOn("boxes");
    if (this.places) this.drawBoxes(this.places[this.frame]);
    if (this.isOn("compare") && this.layers?.ready) {
      drawFrame(this.compare.getContext("2d"), this.layers.layers, this.layers.frames[this.frame]);
    }
  }

  drawBoxes(objects) {
    const elements = objects.map(({ box, present }, index) => {
      const { label, color } = this.tracks.objects[index];
      const element = h("div", { class: "result-box", hidden: !present }, h("span", { class: "tag", text: label }));
      element.style.setProperty("--color", color);
      element.style.inset = [box[1], 1 - box[2], 1 - box[3], box[0]].map((side) => `${side * 100}%`).join(" ");
      return element;
    });
    this.boxes.replaceChildren(...elements);
  }
}
