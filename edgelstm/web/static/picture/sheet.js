// A sheet of paper that lies on something else: edgelstm/picture/sheet.py in JavaScript.

import { argmax, crop, largestOf, mapped, rimOf, rint, smallestOf, sum, transposed } from "./arrays.js";
import { label } from "./blobs.js";

const MIN_PX = 64;
const MIN_SIDE = 0.3;
const MIN_SOLID = 0.7;
const { abs, floor, max, min, trunc } = Math;

/** The picture cropped to its sheet, with the sheet's own rim continued over what is beside it; null if there is none. */
export function sheetOnly(picture, grey) {
  const ends = min(grey.height, grey.width) >= MIN_PX ? rowEnds(grey) : null;
  if (!ends) return null;
  const { top, left, right } = ends;
  const [scaleY, scaleX] = [picture.height / grey.height, picture.width / grey.width];
  const [start, stop] = [trunc(top * scaleY) + 1, trunc((top + left.length) * scaleY)];
  const at = Array.from({ length: stop - start }, (_, i) => (start + i + 0.5) / scaleY - top - 0.5);
  const first = at.map((y) => rint(between(left, y) * scaleX));
  const last = at.map((y) => rint(between(right, y) * scaleX) - 1);
  const [from, to] = [smallestOf(first), largestOf(last)];
  const { channels } = picture;
  const [height, width] = [at.length, to + 1 - from];
  const data = new Uint8Array(height * width * channels);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = from; x <= to; x++) {
      const column = min(last[y], max(first[y], x));
      for (let channel = 0; channel < channels; channel++, i++)
        data[i] = picture.data[((start + y) * picture.width + column) * channels + channel];
    }
  }
  return { height, width, channels, data };
}

/** np.interp over 0, 1, 2 ... */
function between(values, x) {
  if (x <= 0) return values[0];
  if (x >= values.length - 1) return values.at(-1);
  const i = floor(x);
  return (values[i + 1] - values[i]) * (x - i) + values[i];
}

/** The sheet's first row, and where each of its rows begins and ends; a little inside its rim. */
function rowEnds(grey) {
  const { height, width } = grey;
  const level = otsu(grey);
  for (const bright of [1, 0]) {
    const blobs = label(mapped(grey, (i) => Number(grey.data[i] > level) ^ bright ^ 1, Uint8Array));
    if (!blobs.area.length) continue;
    const i = argmax(blobs.area);
    const rim = rimOf(blobs.labels);
    if (rim.filter((blob) => blob === i).length / rim.length > 0.1) continue;
    const [top, bottom, left, right] = [blobs.top[i], blobs.bottom[i], blobs.left[i], blobs.right[i]];
    if (bottom - top < MIN_SIDE * height || right - left < MIN_SIDE * width) continue;
    const labels = crop(blobs.labels, top, bottom, left, right);
    const own = mapped(labels, (k) => Number(labels.data[k] === i), Uint8Array);
    const [across, down] = [spanned(own), transposed(spanned(transposed(own)))];
    const filled = mapped(own, (k) => across.data[k] & down.data[k], Uint8Array);
    if (sum(own.data) < MIN_SOLID * sum(filled.data)) continue;
    if (!straightSides(filled) || !straightSides(transposed(filled))) continue;
    const inset = 2 + floor(min(height, width) / 80);
    const { before, after } = sides(crop(filled, inset, filled.height - inset, 0, filled.width));
    const [first, last] = [before.map((x) => x + inset), after.map((x) => filled.width - x - inset)];
    const wide = first.flatMap((x, y) => (last[y] - x > (MIN_SIDE / 2) * width ? [y] : [])); // not an askew sheet's tips
    if (wide.length > (MIN_SIDE / 2) * height) {
      const [begin, end] = [wide[0], wide.at(-1) + 1];
      const shifted = (side) => side.slice(begin, end).map((x) => left + x);
      return { top: top + inset + begin, left: shifted(first), right: shifted(last) };
    }
  }
  return null;
}

/** Each row filled from its first to its last pixel. */
function spanned(mask) {
  const out = mapped(mask, () => 0, Uint8Array);
  for (let y = 0; y < mask.height; y++) {
    const row = mask.data.subarray(y * mask.width, (y + 1) * mask.width);
    const first = row.indexOf(1);
    if (first >= 0) out.data.fill(1, y * mask.width + first, y * mask.width + row.lastIndexOf(1) + 1);
  }
  return out;
}

/** How many pixels of each row lie before its first and after its last one; 0 in an empty row. */
function sides(mask) {
  const rows = Array.from({ length: mask.height }, (_, y) => mask.data.subarray(y * mask.width, (y + 1) * mask.width));
  return {
    before: rows.map((row) => max(0, row.indexOf(1))),
    after: rows.map((row) => (row.includes(1) ? mask.width - 1 - row.lastIndexOf(1) : 0)),
  };
}

/** Whether left and right are straight lines, corners aside. */
function straightSides(filled) {
  const n = filled.height;
  const [start, stop] = [trunc(0.2 * n), n - trunc(0.2 * n)];
  if (stop - start < 8) return false;
  const centred = (values) => {
    const mean = sum(values) / values.length;
    return values.map((value) => value - mean);
  };
  const dot = (a, b) => a.reduce((total, value, i) => total + value * b[i], 0);
  const y = centred(Array.from({ length: stop - start }, (_, i) => start + i));
  const { before, after } = sides(filled);
  return [before, after].every((side) => {
    const x = centred(side.slice(start, stop));
    const slope = dot(x, y) / dot(y, y);
    return largestOf(x.map((value, i) => abs(value - slope * y[i]))) <= 2 + 0.012 * filled.width;
  });
}

/** The level that parts the picture into two classes of least variance (Otsu 1979). */
function otsu(grey) {
  const counts = new Float64Array(256);
  for (const value of grey.data) counts[trunc(min(255, max(0, value)))]++;
  const [below, total] = [new Float64Array(256), new Float64Array(256)];
  counts.forEach((count, i) => {
    below[i] = (below[i - 1] ?? 0) + count;
    total[i] = (total[i - 1] ?? 0) + count * i;
  });
  const [all, mass] = [below[255], total[255]];
  return argmax(below.map((b, i) => (mass * b - total[i] * all) ** 2 / max(b * (all - b), 1)));
}
