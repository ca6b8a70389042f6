// Playing and stepping through the frames of the editor.

import { byId } from "./dom.js";
import { icon } from "./icons.js";

/** Connects the buttons below the picture and plays the document in a loop. */
export class Transport {
  /** @param {import("./store.js").Store} store */
  constructor(store) {
    this.store = store;
    this.button = byId("play");
    byId("to-first").addEventListener("click", () => this.goTo(0));
    byId("step-back").addEventListener("click", () => this.step(-1));
    byId("step-on").addEventListener("click", () => this.step(1));
    byId("to-last").addEventListener("click", () => this.goTo(Infinity));
    this.button.addEventListener("click", () => this.toggle());
    for (const name of ["preview", "onion"]) {
      const box = byId(`show-${name}`);
      box.addEventListener("click", () => store.show({ [name]: !store.view[name] }));
    }
    store.subscribe(() => this.update());
  }

  /** Frames per second of the chosen model's videos. */
  get fps() {
    return this.store.model?.fps ?? 8;
  }

  goTo(frame) {
    const { tracks } = this.store;
    if (tracks) this.store.show({ frame: Math.min(Math.max(frame, 0), tracks.frames - 1), playing: false });
  }

  /** Steps by a number of frames; after the last comes the first. */
  step(by) {
    const { tracks, view } = this.store;
    if (tracks) this.goTo((view.frame + by + tracks.frames) % tracks.frames);
  }

  toggle() {
    if (this.store.tracks) this.store.show({ playing: !this.store.view.playing });
  }

  update() {
    const { view } = this.store;
    for (const name of ["preview", "onion"]) byId(`show-${name}`).setAttribute("aria-pressed", `${view[name]}`);
    if (view.playing === this.playing) return;
    this.playing = view.playing;
    this.button.replaceChildren(icon(view.playing ? "pause" : "play"));
    this.button.setAttribute("aria-label", view.playing ? "Pause" : "Play");
    if (view.playing) this.play();
  }

  play() {
    const start = performance.now();
    const first = this.store.view.frame;
    const tick = (now) => {
      const { view, tracks } = this.store;
      if (!view.playing) return;
      const elapsed = Math.floor((Math.max(now - start, 0) / 1000) * this.fps);
      this.store.show({ frame: (first + elapsed) % tracks.frames });
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }
}
