// The edited document: boxes of objects at keyframes. All functions return new documents and change nothing.

import { frameTimes, interpolate } from "./interpolation.js";
import { movedBox, validBox } from "./geometry.js";

/**
 * @typedef {{frame: number, box: number[]}} Keyframe Box x1, y1, x2, y2 in pixels of the picture.
 * @typedef {{id: string, label: string, color: string, interpolation: string, keyframes: Keyframe[],
 *     visible: number[][]|null}} TrackObject `visible` has ranges [first frame, last frame]; null is all frames.
 * @typedef {{frames: number, size: number[], objects: TrackObject[]}} Tracks
 */

// The colours of M. Okabe and K. Ito, "Color Universal Design" (2008), as the command line draws boxes.
const COLORS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2"];

let created = 0;

/** Returns a document without objects. */
export function emptyTracks(frames, size) {
  return { frames, size, objects: [] };
}

/** Returns an id that no other object of this page has. */
function newId() {
  created += 1;
  return `object${created}`;
}

function unusedColor(objects) {
  const free = COLORS.find((color) => objects.every((object) => object.color !== color));
  return free ?? COLORS[objects.length % COLORS.length];
}

/** Adds an object with a keyframe at frame 0; returns the document and the id. */
export function addObject(tracks, box, label = "") {
  const id = newId();
  const object = {
    id,
    label: label || `object ${tracks.objects.length + 1}`,
    color: unusedColor(tracks.objects),
    interpolation: "linear",
    keyframes: [{ frame: 0, box: validBox(box, tracks.size) }],
    visible: null,
  };
  return { tracks: { ...tracks, objects: [...tracks.objects, object] }, id };
}

/** Returns the object with an id, or undefined. */
export function objectOf(tracks, id) {
  return tracks.objects.find((object) => object.id === id);
}

/** Replaces fields of an object. */
export function updateObject(tracks, id, fields) {
  const objects = tracks.objects.map((object) => (object.id === id ? { ...object, ...fields } : object));
  return { ...tracks, objects };
}

/** Removes an object. */
export function removeObject(tracks, id) {
  return { ...tracks, objects: tracks.objects.filter((object) => object.id !== id) };
}

/** Copies an object with its whole track, shifted a little; returns the document and the id of the copy. */
export function copyObject(tracks, id) {
  const source = objectOf(tracks, id);
  const shift = Math.round(Math.min(...tracks.size) * 0.06);
  const keyframes = source.keyframes.map(({ frame, box }) => ({
    frame,
    box: validBox(movedBox(box, shift, shift), tracks.size),
  }));
  const copy = { ...source, id: newId(), keyframes, color: unusedColor(tracks.objects) };
  return { tracks: { ...tracks, objects: [...tracks.objects, copy] }, id: copy.id };
}

/** Returns the box of an object at a time in frames. */
export function boxAt(object, time) {
  const times = object.keyframes.map((keyframe) => keyframe.frame);
  const boxes = object.keyframes.map((keyframe) => keyframe.box);
  return interpolate(times, boxes, time, object.interpolation);
}

/** Whether an object is visible in a frame. */
export function isVisible(object, frame) {
  return object.visible === null || object.visible.some(([first, last]) => first <= frame && frame <= last);
}

/** Whether an object has a keyframe at a frame. */
export function hasKeyframe(object, frame) {
  return object.keyframes.some((keyframe) => keyframe.frame === frame);
}

/** Sets the box of an object at a frame, adding a keyframe there. */
export function setBox(tracks, id, frame, box) {
  const object = objectOf(tracks, id);
  const others = object.keyframes.filter((keyframe) => keyframe.frame !== frame);
  const keyframes = [...others, { frame, box: validBox(box, tracks.size) }];
  return updateObject(tracks, id, { keyframes: keyframes.sort((a, b) => a.frame - b.frame) });
}

/** Removes a keyframe; the last one of an object stays. */
export function removeKeyframe(tracks, id, frame) {
  const object = objectOf(tracks, id);
  if (object.keyframes.length === 1) return tracks;
  return updateObject(tracks, id, { keyframes: object.keyframes.filter((keyframe) => keyframe.frame !== frame) });
}

/** Moves a keyframe to another frame; a keyframe that is already there is replaced. */
export function moveKeyframe(tracks, id, from, to) {
  const keyframe = objectOf(tracks, id)?.keyframes.find((item) => item.frame === from);
  if (!keyframe || from === to || to < 0 || to >= tracks.frames) return tracks;
  const others = objectOf(tracks, id).keyframes.filter((item) => item.frame !== from && item.frame !== to);
  const keyframes = [...others, { ...keyframe, frame: to }].sort((a, b) => a.frame - b.frame);
  return updateObject(tracks, id, { keyframes });
}

/** Changes the number of frames and spreads the motion over them: first frame on first, last on last. */
export function setFrames(tracks, frames) {
  if (frames === tracks.frames) return tracks;
  const scale = (frame) => (tracks.frames > 1 ? Math.round((frame * (frames - 1)) / (tracks.frames - 1)) : 0);
  const objects = tracks.objects.map((object) => {
    const placed = new Map(object.keyframes.map((keyframe) => [scale(keyframe.frame), keyframe.box]));
    const keyframes = [...placed].map(([frame, box]) => ({ frame, box }));
    const visible = object.visible && object.visible.map((range) => range.map(scale));
    return { ...object, keyframes, visible };
  });
  return { ...tracks, frames, objects };
}

/**
 * Reads ranges of frames such as "0-3, 6"; empty text is all frames.
 * @returns {number[][]|null}
 * @throws {Error} The text is not a list of ranges within the frames.
 */
export function parseRanges(text, frames) {
  if (!text.trim() || text.trim() === "all") return null;
  return text.split(",").map((part) => {
    const match = /^\s*(\d+)\s*(?:[-\u2013]\s*(\d+)\s*)?$/.exec(part);
    const [first, last] = match ? [Number(match[1]), Number(match[2] ?? match[1])] : [0, -1];
    if (last < first || last >= frames) throw new Error(`Frames must be ranges such as 0-3, 6 within 0-${frames - 1}.`);
    return [first, last];
  });
}

/** Returns ranges as text, the opposite of `parseRanges`. */
export function formatRanges(ranges) {
  return ranges === null ? "" : ranges.map(([a, b]) => (a === b ? `${a}` : `${a}-${b}`)).join(", ");
}

/**
 * Returns boxes in 0..1 and presence at every frame of a video with another number of frames, as the command line
 * reads them: boxes are clipped to the picture.
 * @returns {{box: number[], present: boolean}[][]} Per frame, per object.
 */
export function boxesOverTime(tracks, frames = tracks.frames) {
  const [width, height] = tracks.size;
  return frameTimes(tracks.frames, frames).map(({ lower, upper, fraction, nearest }) =>
    tracks.objects.map((object) => {
      const both = isVisible(object, lower) && isVisible(object, upper);
      const [x1, y1, x2, y2] = boxAt(object, both ? lower + fraction : nearest);
      const box = [x1 / width, y1 / height, x2 / width, y2 / height].map((side) => Math.min(Math.max(side, 0), 1));
      return { box, present: isVisible(object, nearest) };
    }),
  );
}

/** Returns the content of tracks.json (format smcd-tracks, version 1). */
export function toTrackFile(tracks, prompt = "") {
  return {
    format: "smcd-tracks",
    version: 1,
    frames: tracks.frames,
    size: tracks.size,
    ...(prompt ? { prompt } : {}),
    objects: tracks.objects.map(({ label, interpolation, keyframes, visible }) => ({
      label,
      interpolation,
      keyframes: keyframes.map(({ frame, box }) => ({ frame, box })),
      ...(visible ? { visible } : {}),
    })),
  };
}

/** Returns a document from the content of tracks.json, scaled to a picture of `size`. */
export function fromTrackFile(file, size) {
  const [sx, sy] = [size[0] / file.size[0], size[1] / file.size[1]];
  const tracks = emptyTracks(file.frames, size);
  for (const item of file.objects) {
    const keyframes = item.keyframes.map(({ frame, box }) => ({
      frame,
      box: validBox([box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy], size),
    }));
    tracks.objects.push({
      id: newId(),
      label: item.label,
      color: unusedColor(tracks.objects),
      interpolation: item.interpolation ?? "linear",
      keyframes,
      visible: item.visible ?? null,
    });
  }
  return tracks;
}
