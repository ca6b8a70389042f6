// Keeps the layers of the preview up to date with the document.

import { getLayers } from "./api.js";
import { draftLayers, drawFrame } from "./compose.js";
import { debounce } from "./dom.js";
import { boxesOverTime } from "./tracks.js";

/** Milliseconds without a change of a first box before the server is asked for layers. */
const WAIT = 250;

/** Layers of the document: local drafts, which the layers of the server replace. */
export class Preview {
  /**
   * @param {import("./store.js").Store} store
   * @param {() => void} onLayers Called when better layers are there.
   */
  constructor(store, onLayers) {
    this.store = store;
    this.onLayers = onLayers;
    this.layers = null;
    this.key = "";
    this.moves = null;
    this.request = debounce(() => this.load(), WAIT);
    const prefetch = debounce(() => store.picture && store.view.preview && this.update(), WAIT);
    store.subscribe((changed) => {
      if (changed.has("picture")) this.layers = null;
      if (!changed.has("picture") && !changed.has("tracks")) return;
      this.moves = null;
      prefetch();
    });
  }

  /** Note about the background; empty once the layers of the server are shown. */
  get note() {
    if (!this.layers?.draft) return "";
    return this.failed ? "background: draft" : "filling the background …";
  }

  /**
   * Draws a frame of the document over the whole canvas.
   * @param {CanvasRenderingContext2D} context
   * @param {number} frame
   */
  draw(context, frame) {
    this.update();
    drawFrame(context, this.layers, this.moves.frames[frame]);
  }

  /** Makes draft layers if a first box changed, and asks the server for better ones. */
  update() {
    const { picture, tracks } = this.store;
    this.moves ??= movements(tracks);
    const boxes = this.moves.first;
    const key = picture.id + JSON.stringify(boxes);
    if (this.layers && key === this.key) return;
    this.key = key;
    this.failed = false;
    this.layers = draftLayers(picture, boxes);
    if (boxes.some((box) => box)) this.request();
    else this.layers.draft = false;
  }

  async load() {
    const { key, layers } = this;
    try {
      const better = await serverLayers(this.store.picture.id, layers);
      if (key !== this.key) return;
      this.layers = better;
      this.onLayers();
    } catch (error) {
      // Keep the draft, which is enough to judge the motion.
      if (key === this.key) this.failed = true;
      console.warn("layers:", error.message);
      this.onLayers();
    }
  }
}

/**
 * Returns the layers of the server in place of drafts.
 * @param {string} picture Id of the picture.
 * @param {import("./compose.js").Layers} drafts
 * @returns {Promise<import("./compose.js").Layers>}
 */
export async function serverLayers(picture, drafts) {
  const answer = await getLayers(
    picture,
    drafts.boxes.filter((box) => box),
  );
  const images = await Promise.all([answer.background, ...answer.cutouts.map((cutout) => cutout.url)].map(loadImage));
  const cutouts = answer.cutouts.map((cutout, index) => ({ ...cutout, image: images[index + 1] }));
  const { width, height } = answer;
  const placed = drafts.boxes.map((box) => box && cutouts.shift());
  return { background: images[0], width, height, cutouts: placed, boxes: drafts.boxes, draft: false };
}

/**
 * Returns what the preview draws: the contents of an object's first box stay in it until the object appears.
 * @param {import("./tracks.js").Tracks} tracks
 * @param {number} numFrames
 * @returns {{first: (number[]|null)[], frames: {box: number[], present: boolean}[][]}} First boxes in 0..1 of the
 *     picture, null for an object that is in no frame; and boxes per frame and object.
 */
export function movements(tracks, numFrames = tracks.frames) {
  const frames = boxesOverTime(tracks, numFrames);
  const first = tracks.objects.map((_, index) => {
    const at = frames.findIndex((objects) => objects[index].present);
    if (at < 0) return null;
    const { box } = frames[at][index];
    for (let frame = 0; frame < at; frame += 1) frames[frame][index] = { box, present: true };
    return box;
  });
  return { first, frames };
}

/** Loads and decodes a picture. */
export async function loadImage(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return createImageBitmap(image);
}
