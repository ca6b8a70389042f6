// State of the page with undo and redo.

/**
 * @typedef {Object} View What the user looks at; not part of undo.
 * @property {number} frame Frame shown in the editor.
 * @property {string|null} selected Id of the selected object.
 * @property {boolean} playing
 * @property {boolean} preview Whether the editor shows the moved cutouts.
 * @property {boolean} onion Whether the editor shows the path of the selected object.
 * @property {number} zoom Factor of the size that fits the window.
 * @property {"edit"|"result"} tab
 */

const MOST_STEPS = 200;

/** Holds the document, the view and the picture, and notifies listeners of changes. */
export class Store {
  constructor() {
    /** @type {import("./tracks.js").Tracks|null} */
    this.tracks = null;
    /** @type {{id: string, width: number, height: number, name: string, image: CanvasImageSource}|null} */
    this.picture = null;
    /** @type {Object|null} The chosen model of /api/info. */
    this.model = null;
    /** @type {{width: number, height: number, frames: number, fit: string}|null} Video that the form asks for. */
    this.video = null;
    /** @type {View} */
    this.view = { frame: 0, selected: null, playing: false, preview: true, onion: true, zoom: 1, tab: "edit" };
    this.undoSteps = [];
    this.redoSteps = [];
    this.gesture = null;
    this.listeners = [];
    this.changed = new Set();
    this.scheduled = false;
  }

  /**
   * Calls `listener` after changes, once per task, with the names of what changed: tracks, view, picture, model, video.
   * @param {(changed: Set<string>) => void} listener
   */
  subscribe(listener) {
    this.listeners.push(listener);
  }

  /** Opens a picture with a new document; undo starts here. */
  openPicture(picture, tracks) {
    this.picture = picture;
    this.tracks = tracks;
    this.undoSteps = [];
    this.redoSteps = [];
    this.gesture = null;
    this.view = {
      ...this.view,
      frame: 0,
      selected: tracks.objects[0]?.id ?? null,
      playing: false,
      zoom: 1,
      tab: "edit",
    };
    this.notify("picture", "tracks", "view");
  }

  /**
   * Replaces the document as one step of undo.
   * @param {string} name Name of the step, for the announcement of undo.
   * @param {import("./tracks.js").Tracks} tracks
   * @param {string|null} gesture Edits with the same gesture, such as one drag, are one step.
   */
  edit(name, tracks, gesture = null) {
    if (tracks === this.tracks) return;
    if (gesture === null || gesture !== this.gesture) {
      this.undoSteps.push({ name, tracks: this.tracks, selected: this.view.selected, frame: this.view.frame });
      this.undoSteps.splice(0, this.undoSteps.length - MOST_STEPS);
    }
    this.gesture = gesture;
    this.redoSteps = [];
    this.tracks = tracks;
    this.keepViewValid();
    this.notify("tracks");
  }

  /** Undoes the last step; returns its name, or null. */
  undo() {
    return this.step(this.undoSteps, this.redoSteps);
  }

  /** Repeats the last undone step; returns its name, or null. */
  redo() {
    return this.step(this.redoSteps, this.undoSteps);
  }

  step(from, to) {
    const step = from.pop();
    if (!step) return null;
    to.push({ name: step.name, tracks: this.tracks, selected: this.view.selected, frame: this.view.frame });
    this.tracks = step.tracks;
    this.gesture = null;
    this.view = { ...this.view, selected: step.selected, frame: step.frame };
    this.keepViewValid();
    this.notify("tracks", "view");
    return step.name;
  }

  /** Changes fields of the view. */
  show(fields) {
    const next = { ...this.view, ...fields };
    if (Object.keys(fields).every((name) => this.view[name] === next[name])) return;
    this.view = next;
    this.keepViewValid();
    this.notify("view");
  }

  /** Chooses a model of /api/info. */
  chooseModel(model) {
    this.model = model;
    this.notify("model");
  }

  /** Sets the size of the video and how the picture is fitted to it. */
  setVideo(video) {
    if (JSON.stringify(video) === JSON.stringify(this.video)) return;
    this.video = video;
    this.notify("video");
  }

  /** The selected object, or undefined. */
  get selected() {
    return this.tracks?.objects.find((object) => object.id === this.view.selected);
  }

  keepViewValid() {
    if (!this.tracks) return;
    const frame = Math.min(Math.max(Math.round(this.view.frame), 0), this.tracks.frames - 1);
    const selected = this.selected ? this.view.selected : null;
    if (frame === this.view.frame && selected === this.view.selected) return;
    this.view = { ...this.view, frame, selected };
    this.changed.add("view");
  }

  notify(...names) {
    if (!this.scheduled) {
      this.scheduled = true;
      queueMicrotask(() => this.flush());
    }
    for (const name of names) this.changed.add(name);
  }

  flush() {
    this.scheduled = false;
    const changed = this.changed;
    this.changed = new Set();
    for (const listener of this.listeners) listener(changed);
  }
}
