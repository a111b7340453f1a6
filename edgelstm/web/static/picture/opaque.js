// Lay a transparent picture on a ground on which it can be seen: decoding.py's _opaque in JavaScript.

import { rint, sum } from "./arrays.js";

const LUMA = [0.299, 0.587, 0.114];

/** RGBA -> RGB; what is hidden under transparent pixels says nothing. */
export function opaque({ height, width, data }) {
  const n = height * width;
  const rgb = new Uint8Array(3 * n);
  let ground = null;
  for (let i = 0; i < n && !ground; i++) if (data[4 * i + 3] < 255) ground = groundFor(data, height, width);
  for (let i = 0; i < n; i++) {
    const share = Math.fround(data[4 * i + 3] / 255);
    const rest = Math.fround(1 - share);
    for (let c = 0; c < 3; c++) {
      const value = data[4 * i + c];
      rgb[3 * i + c] = ground && share < 1 ? rint(Math.fround(Math.fround(value * share) + Math.fround(ground[c] * rest))) : value;
    }
  }
  return ground?.length === 0 ? { height, width, channels: 1, data: new Uint8Array(n) } : { height, width, channels: 3, data: rgb };
}

/** The colour to lay it on; empty if nothing at all is visible. */
function groundFor(data, height, width) {
  const n = height * width;
  const over = (least) => Array.from({ length: n }, (_, i) => i).filter((i) => data[4 * i + 3] > least);
  let visible = over(127);
  if (!visible.length) visible = over(0);
  if (!visible.length) return [];
  const luma = visible.map((i) => LUMA.reduce((total, share, c) => total + share * data[4 * i + c], 0));
  let [top, bottom, left, right] = [height, 0, width, 0];
  for (const i of visible) {
    const [y, x] = [Math.floor(i / width), i % width];
    [top, bottom, left, right] = [Math.min(top, y), Math.max(bottom, y), Math.min(left, x), Math.max(right, x)];
  }
  const solid = luma.length > 0.75 * (bottom - top + 1) * (right - left + 1);
  const sorted = Float64Array.from(luma).sort();
  if (solid && percentile(sorted, 0.99) - percentile(sorted, 0.01) > 40) {
    return LUMA.map((_, c) => percentile(Float64Array.from(visible, (i) => data[4 * i + c]).sort(), 0.5));
  }
  return new Array(3).fill(sum(luma) / luma.length > 127 ? 0 : 255);
}

/** Of sorted values, between two of them where it falls so. */
function percentile(sorted, share) {
  const at = share * (sorted.length - 1);
  const i = Math.floor(at);
  return sorted[i] + (at - i) * ((sorted[i + 1] ?? sorted[i]) - sorted[i]);
}
