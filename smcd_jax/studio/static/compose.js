// The preview: cutouts of the picture that move along their boxes over a filled background.

/**
 * @typedef {{image: CanvasImageSource, x: number, y: number, width: number, height: number}} Cutout Place in pixels
 *     of the layer picture.
 * @typedef {{background: CanvasImageSource, width: number, height: number, cutouts: (Cutout|null)[],
 *     boxes: (number[]|null)[], draft: boolean}} Layers `boxes` are the first boxes, in 0..1 of the picture.
 */

/** Longest side of a layer picture. */
const LARGEST = 1024;
/** Cells per side of a draft fill. */
const CELLS = 32;

/**
 * Draws one frame of the preview over the whole canvas.
 * @param {CanvasRenderingContext2D} context
 * @param {Layers} layers
 * @param {{box: number[], present: boolean}[]} objects Boxes in 0..1 of the picture.
 */
export function drawFrame(context, layers, objects) {
  const { width, height } = context.canvas;
  context.drawImage(layers.background, 0, 0, width, height);
  objects.forEach(({ box, present }, index) => {
    const cutout = layers.cutouts[index];
    if (!present || !cutout) return;
    const [x, y, w, h] = placeOf(cutout, layers.boxes[index], box, layers);
    context.drawImage(cutout.image, x * width, y * height, w * width, h * height);
  });
}

/** Returns x, y, width and height in 0..1 of a cutout whose first box moves to `box`. */
function placeOf(cutout, first, box, { width, height }) {
  const sx = (box[2] - box[0]) / (first[2] - first[0]);
  const sy = (box[3] - box[1]) / (first[3] - first[1]);
  return [
    box[0] + (cutout.x / width - first[0]) * sx,
    box[1] + (cutout.y / height - first[1]) * sy,
    (cutout.width / width) * sx,
    (cutout.height / height) * sy,
  ];
}

/**
 * Makes layers in the browser, for the time until those of the server arrive: cutouts, and a background that is filled
 * from the sides of each box.
 * @param {{width: number, height: number, image: CanvasImageSource}} picture
 * @param {(number[]|null)[]} boxes First boxes in 0..1; null for an object that is not in the first frame.
 * @returns {Layers}
 */
export function draftLayers(picture, boxes) {
  const scale = Math.min(1, LARGEST / Math.max(picture.width, picture.height));
  const [width, height] = [Math.round(picture.width * scale), Math.round(picture.height * scale)];
  const background = new OffscreenCanvas(width, height);
  const context = background.getContext("2d");
  context.drawImage(picture.image, 0, 0, width, height);
  const places = boxes.map((box) => box && wholePixels(box, width, height));
  const cutouts = places.map((place) => place && cutOut(background, place));
  for (const place of places) if (place) fill(context, place);
  return { background, width, height, cutouts, boxes, draft: true };
}

function wholePixels([x1, y1, x2, y2], width, height) {
  const [left, top] = [Math.max(0, Math.round(x1 * width)), Math.max(0, Math.round(y1 * height))];
  const [right, bottom] = [Math.min(width, Math.round(x2 * width)), Math.min(height, Math.round(y2 * height))];
  return { x: left, y: top, width: Math.max(1, right - left), height: Math.max(1, bottom - top) };
}

/** Cuts out a box with a soft edge around it, as wide as that of the server. */
function cutOut(source, place) {
  const soft = Math.min(16, Math.max(1, Math.round(0.12 * Math.min(place.width, place.height))));
  const [x, y] = [Math.max(0, place.x - soft), Math.max(0, place.y - soft)];
  const width = Math.min(source.width, place.x + place.width + soft) - x;
  const height = Math.min(source.height, place.y + place.height + soft) - y;
  const image = new OffscreenCanvas(width, height);
  const context = image.getContext("2d");
  context.drawImage(source, x, y, width, height, 0, 0, width, height);
  context.globalCompositeOperation = "destination-in";
  context.fillStyle = softEdges(context, [width, 0], [place.x - x, place.x - x + place.width]);
  context.fillRect(0, 0, width, height);
  context.fillStyle = softEdges(context, [0, height], [place.y - y, place.y - y + place.height]);
  context.fillRect(0, 0, width, height);
  return { image, x, y, width, height };
}

/** Gradient that is opaque between two positions and falls to 0 at both ends. */
function softEdges(context, end, [low, high]) {
  const length = Math.max(...end);
  const gradient = context.createLinearGradient(0, 0, ...end);
  if (low > 0) gradient.addColorStop(0, "transparent");
  gradient.addColorStop(low / length, "black");
  gradient.addColorStop(high / length, "black");
  if (high < length) gradient.addColorStop(1, "transparent");
  return gradient;
}

/** Fills a box with the colours along its four sides, weighted by 1 / distance, on a coarse grid. */
function fill(context, { x, y, width, height }) {
  const side = (sx, sy, sw, sh, w, h) => {
    const strip = new OffscreenCanvas(w, h);
    const strips = strip.getContext("2d", { willReadFrequently: true });
    strips.drawImage(context.canvas, sx, sy, sw, sh, 0, 0, w, h);
    return strips.getImageData(0, 0, w, h).data;
  };
  const canvas = context.canvas;
  const left = x > 0 && side(x - 1, y, 1, height, 1, CELLS);
  const right = x + width < canvas.width && side(x + width, y, 1, height, 1, CELLS);
  const top = y > 0 && side(x, y - 1, width, 1, CELLS, 1);
  const bottom = y + height < canvas.height && side(x, y + height, width, 1, CELLS, 1);
  const pixels = new ImageData(CELLS, CELLS);
  for (let row = 0; row < CELLS; row += 1) {
    for (let column = 0; column < CELLS; column += 1) {
      const sides = [
        [left, row, ((column + 0.5) / CELLS) * width],
        [right, row, (1 - (column + 0.5) / CELLS) * width],
        [top, column, ((row + 0.5) / CELLS) * height],
        [bottom, column, (1 - (row + 0.5) / CELLS) * height],
      ];
      setMean(pixels.data, 4 * (row * CELLS + column), sides);
    }
  }
  const patch = new OffscreenCanvas(CELLS, CELLS);
  patch.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = true;
  context.drawImage(patch, x, y, width, height);
}

function setMean(data, at, sides) {
  let total = 0;
  const sum = [0, 0, 0];
  for (const [colors, index, distance] of sides) {
    if (!colors) continue;
    const weight = 1 / Math.max(distance, 0.5);
    total += weight;
    for (let channel = 0; channel < 3; channel += 1) sum[channel] += weight * colors[4 * index + channel];
  }
  for (let channel = 0; channel < 3; channel += 1) data[at + channel] = total ? sum[channel] / total : 128;
  data[at + 3] = 255;
}
