// Boxes [x1, y1, x2, y2] in pixels of the picture.

/** Smallest side of a box in pixels of the picture. */
export const SMALLEST = 2;

/** Rounds a coordinate to two decimals, the precision of exported tracks. */
const rounded = (value) => Math.round(value * 100) / 100;

/**
 * Returns a box with sorted corners, a smallest size, and some overlap with the picture.
 * @param {number[]} box
 * @param {number[]} size Width and height of the picture.
 * @returns {number[]}
 */
export function validBox(box, size) {
  const [x1, x2] = validSides(box[0], box[2], size[0]);
  const [y1, y2] = validSides(box[1], box[3], size[1]);
  return [x1, y1, x2, y2];
}

function validSides(first, second, length) {
  let [low, high] = first < second ? [first, second] : [second, first];
  high = Math.max(high, low + SMALLEST);
  const shift = Math.max(SMALLEST - high, 0) + Math.min(length - SMALLEST - low, 0);
  return [rounded(low + shift), rounded(high + shift)];
}

/** Returns the box moved by dx and dy. */
export function movedBox([x1, y1, x2, y2], dx, dy) {
  return [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
}

/**
 * Returns the box with the sides that a handle holds moved; a side stops at the smallest size instead of crossing.
 * @param {number[]} box
 * @param {string} handle Some of the letters n, e, s, w.
 * @param {number} dx
 * @param {number} dy
 * @param {boolean} keepAspect Whether a corner keeps the aspect ratio.
 * @returns {number[]}
 */
export function resizedBox(box, handle, dx, dy, keepAspect = false) {
  let [x1, y1, x2, y2] = box;
  if (handle.includes("w")) x1 = Math.min(x1 + dx, x2 - SMALLEST);
  if (handle.includes("e")) x2 = Math.max(x2 + dx, x1 + SMALLEST);
  if (handle.includes("n")) y1 = Math.min(y1 + dy, y2 - SMALLEST);
  if (handle.includes("s")) y2 = Math.max(y2 + dy, y1 + SMALLEST);
  if (keepAspect && handle.length === 2) {
    const height = ((x2 - x1) * (box[3] - box[1])) / (box[2] - box[0]);
    if (handle.includes("n")) y1 = y2 - height;
    else y2 = y1 + height;
  }
  return [x1, y1, x2, y2];
}

/** Returns the box that starts at one third of the picture, for adding a box without a mouse. */
export function middleBox([width, height], shift = 0) {
  const by = shift * 0.05;
  return validBox(
    [width * (0.35 + by), height * (0.35 + by), width * (0.65 + by), height * (0.65 + by)],
    [width, height],
  );
}

/** Returns a description of the box for screen readers. */
export function describeBox([x1, y1, x2, y2]) {
  const [left, top, width, height] = [x1, y1, x2 - x1, y2 - y1].map(Math.round);
  return `left ${left}, top ${top}, width ${width}, height ${height} pixels`;
}

/**
 * Returns the part of the picture that the model sees.
 * @param {number[]} size Width and height of the picture.
 * @param {{width: number, height: number, fit: string}} video
 * @returns {number[]} Box in pixels; the whole picture unless the model crops.
 */
export function seenPart([width, height], video) {
  if (video.fit !== "crop") return [0, 0, width, height];
  const scale = Math.max(video.width / width, video.height / height);
  const [w, h] = [video.width / scale, video.height / scale];
  return [(width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2];
}
