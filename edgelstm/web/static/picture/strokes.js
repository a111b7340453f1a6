// Draw ink as MNIST would: edgelstm/picture/strokes.py in JavaScript.

import { grid, largestOf, mapped, padded, rint, sum } from "./arrays.js";
import { resized } from "./resize.js";

const FINE = 8;
export const BOX_SHARE = 20 / 28;
const [THINNEST, THICKEST] = [2.2 / 20, 3.6 / 20];
const { max, min, trunc } = Math;

/** Cropped ink, strokes above 0.5 -> Uint8Array (rows * cols) with MNIST's size, pen and centre. */
export function drawn(ink, rows, cols) {
  const box = BOX_SHARE * min(rows, cols) * FINE;
  let mask = fit(ink, box);
  let radius = 0;
  for (let turn = 0; turn < 2; turn++) { // thickening makes the digit larger, so it is fitted again into what is left
    const width = strokeWidth(mask);
    radius = (min(max(width, THINNEST * box), THICKEST * box) - width) / 2;
    if (radius <= 0.5) break;
    mask = fit(ink, box - 2 * radius);
  }
  return centred(thickened(mask, radius), rows, cols);
}

/** Scale to a longest side of `box` subpixels, and cut at half ink. */
function fit(ink, box) {
  const scale = box / max(ink.height, ink.width);
  const around = padded(ink, 1);
  const [height, width] = [around.height, around.width].map((n) => max(3, rint(n * scale)));
  const scaled = resized(around, height, width, scale > 1 ? "bicubic" : "box");
  const mask = mapped(scaled, (i) => Number(scaled.data[i] > 0.5), Uint8Array);
  if (mask.data.includes(1)) return mask;
  const most = largestOf(scaled.data);
  return mapped(scaled, (i) => Number(scaled.data[i] >= most), Uint8Array);
}

/** Pixels whose distance to the nearest pixel of the mask is at most `radius`, Euclid's way. */
function near({ height, width, data }, radius) {
  const reach = trunc(radius) + 1;
  const across = grid(height, width, Int32Array);
  for (let y = 0; y < height; y++) {
    for (const [from, to, step] of [[0, width, 1], [width - 1, -1, -1]]) {
      let distance = reach;
      for (let x = from; x !== to; x += step) {
        const i = y * width + x;
        distance = data[i] ? 0 : min(reach, distance + 1);
        across.data[i] = step > 0 ? distance : min(across.data[i], distance);
      }
    }
  }
  return mapped(across, (i) => {
    const [y, x] = [trunc(i / width), i % width];
    let best = reach * reach;
    for (let v = max(0, y - reach); v <= min(height - 1, y + reach); v++)
      best = min(best, across.data[v * width + x] ** 2 + (v - y) ** 2);
    return Number(best <= radius * radius);
  }, Uint8Array);
}

/** Mean width of the strokes in pixels: twice their area over their outline's length (Cauchy and Crofton). */
export function strokeWidth(mask) {
  const { height, width, data } = padded(mask, 1);
  let [straight, slanted] = [0, 0];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const i = y * width + x;
      if (x + 1 < width) straight += data[i] ^ data[i + 1];
      if (y + 1 === height) continue;
      straight += data[i] ^ data[i + width];
      if (x + 1 < width) slanted += (data[i] ^ data[i + width + 1]) + (data[i + 1] ^ data[i + width]);
    }
  }
  const outline = (Math.PI / 8) * (straight + slanted / Math.sqrt(2));
  return max((2 * sum(mask.data)) / max(outline, 1), 1);
}

/** Widen the strokes by `radius` on each side, or thin them if it is negative. */
function thickened(mask, radius) {
  if (radius >= 0.5) return near(padded(mask, trunc(radius) + 1), radius);
  if (radius > -0.5) return mask;
  const around = padded(mask, 1);
  const outside = near(mapped(around, (i) => 1 - around.data[i], Uint8Array), -radius);
  const thin = mapped(mask, (i) => 1 - outside.data[(trunc(i / mask.width) + 1) * around.width + (i % mask.width) + 1], Uint8Array);
  return thin.data.includes(1) ? thin : mask;
}

/** Put the centre of mass into the middle of the canvas and average each FINE x FINE subpixels. */
function centred(mask, rows, cols) {
  const [down, across] = [new Float64Array(mask.height), new Float64Array(mask.width)];
  mask.data.forEach((value, i) => {
    down[trunc(i / mask.width)] += value;
    across[i % mask.width] += value;
  });
  const place = (share, size) => {
    const middle = share.reduce((total, value, k) => total + value * k, 0) / sum(share) + 0.5;
    return min(max(rint(size / 2 - middle), 0), max(0, size - share.length));
  };
  const [top, left] = [place(down, rows * FINE), place(across, cols * FINE)];
  const counts = new Uint32Array(rows * cols);
  for (let y = 0; y < min(mask.height, rows * FINE); y++)
    for (let x = 0; x < min(mask.width, cols * FINE); x++)
      counts[trunc((top + y) / FINE) * cols + trunc((left + x) / FINE)] += mask.data[y * mask.width + x];
  return Uint8Array.from(counts, (count) => rint((255 * count) / FINE ** 2));
}
