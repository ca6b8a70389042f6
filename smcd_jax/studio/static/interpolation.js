// Interpolation of boxes over time, the same as smcd_jax/tracks/interpolation.py.

/** Ways to interpolate between keyframes. */
export const INTERPOLATIONS = ["linear", "smooth", "hold"];

/**
 * Spreads new frames evenly over old ones: first on first, last on last.
 * @param {number} oldFrames
 * @param {number} newFrames
 * @returns {{lower: number, upper: number, fraction: number, nearest: number}[]} Position of each new frame.
 */
export function frameTimes(oldFrames, newFrames) {
  const steps = Math.max(newFrames - 1, 1);
  return Array.from({ length: newFrames }, (_, frame) => {
    const numerator = frame * (oldFrames - 1);
    const lower = Math.floor(numerator / steps);
    const rest = numerator % steps;
    const upper = Math.min(lower + 1, oldFrames - 1);
    return { lower, upper, fraction: rest / steps, nearest: 2 * rest >= steps ? upper : lower };
  });
}

/**
 * Returns the values at one time, constant before the first and after the last key.
 * @param {number[]} keyTimes Strictly increasing times, at least one.
 * @param {number[][]} keyValues Coordinates at these times.
 * @param {number} time
 * @param {string} kind `linear`; `smooth`, a monotone cubic (Fritsch and Carlson 1980); or `hold`.
 * @returns {number[]}
 */
export function interpolate(keyTimes, keyValues, time, kind) {
  const last = keyTimes.length - 1;
  const at = Math.min(Math.max(time, keyTimes[0]), keyTimes[last]);
  let before = 0;
  while (before < last && keyTimes[before + 1] <= at) before += 1;
  if (kind === "hold" || before === last) return [...keyValues[before]];
  const width = keyTimes[before + 1] - keyTimes[before];
  const part = (at - keyTimes[before]) / width;
  return keyValues[before].map((start, axis) => {
    const end = keyValues[before + 1][axis];
    if (kind === "linear") return start + (end - start) * part;
    const values = keyValues.map((row) => row[axis]);
    const [d0, d1] = [slopeAt(keyTimes, values, before), slopeAt(keyTimes, values, before + 1)];
    const value = hermite(start, end, d0 * width, d1 * width, part);
    return Math.min(Math.max(value, Math.min(start, end)), Math.max(start, end));
  });
}

/** Cubic Hermite interpolation between two values with the slopes m0 and m1 per unit of `part`, which is in 0..1. */
function hermite(start, end, m0, m1, part) {
  const rest = 1 - part;
  return (
    (1 + 2 * part) * rest * rest * start +
    part * rest * rest * m0 +
    part * part * (3 - 2 * part) * end -
    part * part * rest * m1
  );
}

/** Slope at a key that keeps the curve monotone between keys. */
function slopeAt(times, values, index) {
  const last = times.length - 1;
  const step = (key) => times[key + 1] - times[key];
  const secant = (key) => (values[key + 1] - values[key]) / step(key);
  if (last === 1) return secant(0);
  if (index === 0) return endSlope(step(0), step(1), secant(0), secant(1));
  if (index === last) return endSlope(step(last - 1), step(last - 2), secant(last - 1), secant(last - 2));
  const [left, right] = [secant(index - 1), secant(index)];
  if (Math.sign(left) !== Math.sign(right) || left === 0 || right === 0) return 0;
  const w1 = 2 * step(index) + step(index - 1);
  const w2 = step(index) + 2 * step(index - 1);
  return (w1 + w2) / (w1 / left + w2 / right);
}

/** One-sided slope of three points at an end, limited so that the curve stays monotone. */
function endSlope(near, far, nearSecant, farSecant) {
  const slope = ((2 * near + far) * nearSecant - near * farSecant) / (near + far);
  if (Math.sign(slope) !== Math.sign(nearSecant)) return 0;
  if (Math.sign(nearSecant) !== Math.sign(farSecant) && Math.abs(slope) > 3 * Math.abs(nearSecant)) {
    return 3 * nearSecant;
  }
  return slope;
}
