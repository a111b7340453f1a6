// Connected pieces of ink: edgelstm/picture/blobs.py in JavaScript. Masks are grids of 0 and 1.

import { argmax, crop, grid, largestOf, mapped, rimOf, rint, smallestOf, sum, transposed } from "./arrays.js";

const MAX_CONTACT = 0.5;
const { floor, max, min } = Math;

/** Number the pieces of a mask that touch, diagonals included: -1 = background; areas and bounding boxes. */
export function label(mask) {
  const { height, width, data } = mask;
  const runs = []; // [row, start, stop]
  const rowBegins = [];
  for (let y = 0; y < height; y++) {
    rowBegins.push(runs.length);
    for (let x = 0; x < width; x++) {
      if (!data[y * width + x]) continue;
      const start = x;
      while (x < width && data[y * width + x]) x++;
      runs.push([y, start, x]);
    }
  }
  rowBegins.push(runs.length);
  const root = runs.map((_, i) => i);
  const find = (i) => {
    while (root[i] !== i) i = root[i] = root[root[i]];
    return i;
  };
  for (let y = 1; y < height; y++) {
    let above = rowBegins[y - 1];
    for (let i = rowBegins[y]; i < rowBegins[y + 1]; i++) {
      while (above < rowBegins[y] && runs[above][2] < runs[i][1]) above++;
      for (let j = above; j < rowBegins[y] && runs[j][1] <= runs[i][2]; j++) {
        const [a, b] = [find(i), find(j)];
        root[max(a, b)] = min(a, b);
      }
    }
  }
  const labels = grid(height, width, Int32Array);
  labels.data.fill(-1);
  const blobs = { labels, area: [], top: [], bottom: [], left: [], right: [], extent: [] };
  const numbers = new Map();
  runs.forEach(([y, start, stop], i) => {
    const first = find(i);
    if (!numbers.has(first)) {
      numbers.set(first, numbers.size);
      blobs.area.push(0);
      blobs.top.push(y);
      blobs.bottom.push(y + 1);
      blobs.left.push(start);
      blobs.right.push(stop);
    }
    const n = numbers.get(first);
    labels.data.fill(n, y * width + start, y * width + stop);
    blobs.area[n] += stop - start;
    blobs.bottom[n] = y + 1;
    blobs.left[n] = min(blobs.left[n], start);
    blobs.right[n] = max(blobs.right[n], stop);
  });
  blobs.extent = blobs.area.map((_, n) => max(blobs.bottom[n] - blobs.top[n], blobs.right[n] - blobs.left[n]));
  return blobs;
}

/** The pieces that make up the digit (the main one first, or null), and a note if there is another object. */
export function choose(blobs, votes, faint = false) {
  const none = { chosen: null, note: null };
  const n = blobs.area.length;
  if (!n) return none;
  const { weight, contact, rim } = measured(blobs, votes);
  const score = weight.map((mass, i) => {
    if (contact[i] > MAX_CONTACT) return 0;
    const thick = (2 * blobs.area[i]) / rim[i];
    return mass / (1 + (3 * contact[i]) ** 2) / (1 + ((2.5 * thick) / blobs.extent[i]) ** 4);
  });
  const main = argmax(score);
  const size = blobs.extent[main];
  if (!score[main] || size < 4) return none;
  const group = new Set([main]);
  let rivals = 0;
  const order = score.map((_, i) => i).sort((i, j) => score[j] - score[i]);
  for (const i of order.slice(0, 40)) {
    if (group.has(i) || contact[i] > 0.3 || blobs.area[i] < 0.02 * blobs.area[main]) continue;
    const { top, bottom, left, right } = boxOf(blobs, group);
    const taller = blobs.top[i] < top && blobs.bottom[i] > bottom;
    if (taller && blobs.left[i] < left && blobs.right[i] > right) continue; // a frame
    const gap = max(0, blobs.top[i] - bottom, top - blobs.bottom[i], blobs.left[i] - right, left - blobs.right[i]) / size;
    const overlap = min(right, blobs.right[i]) - max(left, blobs.left[i]);
    const tall = blobs.bottom[i] - blobs.top[i] > 0.6 * (bottom - top);
    const beside = overlap < 0.2 * min(right - left, blobs.right[i] - blobs.left[i]);
    if (gap < 0.05 || (gap < 0.25 && !(tall && beside))) {
      if (blobs.extent[i] > 0.12 * size || gap < 0.02) group.add(i);
    } else if (score[i] > 0.3 * score[main]) rivals++;
  }
  const total = (chosen) => sum(weight.filter((_, i) => chosen(i)));
  if (faint && total((i) => group.has(i)) < 0.5 * total((i) => contact[i] <= MAX_CONTACT)) return none;
  return { chosen: [...group], note: rivals ? "more than one object: read the largest" : null };
}

/** Of each piece: its edges' weight, its contact with the picture's edge, the pixels of its rim. */
function measured({ labels, extent }, votes) {
  const { height, width, data } = labels;
  const n = extent.length;
  const [weight, contact, rim] = [0, 1, 2].map(() => new Array(n).fill(0));
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const blob = data[i];
      if (blob < 0) continue;
      const within = y > 0 && y < height - 1 && x > 0 && x < width - 1;
      if (within) weight[blob] += votes.data[(y - 1) * (width - 2) + x - 1];
      const solid = within && data[i - width] >= 0 && data[i + width] >= 0 && data[i - 1] >= 0 && data[i + 1] >= 0;
      if (!solid) rim[blob]++;
    }
  }
  for (const blob of rimOf(labels)) if (blob >= 0) contact[blob]++;
  return { weight, contact: contact.map((count, i) => count / extent[i]), rim };
}

/** The bounding box of some of the pieces. */
export function boxOf(blobs, chosen) {
  const of = (side) => Array.from(chosen, (i) => blobs[side][i]);
  return {
    top: smallestOf(of("top")), bottom: largestOf(of("bottom")), left: smallestOf(of("left")), right: largestOf(of("right")),
  };
}

/** Top, bottom, left and right of the inside of piece i, if it is a box around something else; or null. */
export function sheetOf(blobs, i, mask) {
  const { top, bottom, left, right } = boxOf(blobs, [i]);
  const [height, width] = [bottom - top, right - left];
  if (min(height, width) < 24 || max(height, width) > 3 * min(height, width)) return null;
  const own = mapped(crop(blobs.labels, top, bottom, left, right), () => 0, Uint8Array);
  crop(blobs.labels, top, bottom, left, right).data.forEach((blob, k) => (own.data[k] = blob === i ? 1 : 0));
  const depth = max(2, floor(min(height, width) / 16));
  const sideways = transposed(own);
  const any = (part) => { // the share of its columns that hold something
    let columns = 0;
    for (let x = 0; x < part.width; x++) {
      for (let y = 0; y < part.height; y++) {
        if (part.data[y * part.width + x]) {
          columns++;
          break;
        }
      }
    }
    return columns / part.width;
  };
  const ends = [own, sideways].flatMap((part) => [
    crop(part, 0, depth, 0, part.width), crop(part, part.height - depth, part.height, 0, part.width),
  ]);
  if (min(...ends.map(any)) < 0.9) return null;
  const framed = blobs.extent.some((extent, k) =>
    blobs.top[k] > top && blobs.bottom[k] < bottom && blobs.left[k] > left && blobs.right[k] < right &&
    extent > 0.25 * max(height, width));
  const inside = crop(mask, top, bottom, left, right).data;
  const filled = own.data.reduce((total, value, k) => total + (value & inside[k]), 0) / own.data.length;
  if (!framed && !(filled > 0.5 && filled < 0.97)) return null;
  const full = (part, row) => sum(part.data.subarray(row * part.width, (row + 1) * part.width)) / part.width > 0.9;
  let edge = depth + 2;
  while (framed && edge < floor(min(height, width) / 4) && (full(own, edge) || full(sideways, edge))) edge++;
  return [top + edge, bottom - edge, left + edge, right - edge];
}

/** The mask and its eight neighbours. */
export function grown(mask) {
  const { height, width, data } = mask;
  const out = grid(height, width, Uint8Array);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!data[y * width + x]) continue;
      for (let v = max(0, y - 1); v <= min(height - 1, y + 1); v++)
        for (let u = max(0, x - 1); u <= min(width - 1, x + 1); u++) out.data[v * width + u] = 1;
    }
  }
  return out;
}

/** The mask without printed lines that cross the whole picture, whatever they cross on the way. */
export function withoutLines(mask) {
  return transposed(withoutRules(transposed(withoutRules(mask))));
}

/** Take away near-horizontal lines. Where a stroke crosses one, the ink is too high to be a line. */
function withoutRules(mask) {
  const { height, width } = mask;
  const full = opened(mask, max(3, floor(height / 70)) + 1);
  const [ys, xs] = [[], []];
  mask.data.forEach((value, i) => {
    if (value && !full.data[i]) {
      ys.push(floor(i / width));
      xs.push(i % width);
    }
  });
  if (ys.length < floor(width / 2)) return mask;
  const found = lines(ys, xs, height, width);
  if (!found) return mask;
  const band = max(4, floor(height / 30));
  const partial = new Set(found.map(({ on }) => floor(floor(sum(on.map((i) => ys[i])) / on.length) / band)));
  const out = grid(height, width, Uint8Array);
  out.data.set(mask.data);
  for (const { crosses, on } of found) {
    if (crosses || partial.size >= 3) for (const i of on) out.data[ys[i] * width + xs[i]] = 0;
  }
  return sum(out.data) > 0.02 * sum(mask.data) ? out : mask;
}

/** The pixels on each near-horizontal line, and whether it crosses the whole picture; null: not lines but grain. */
function lines(ys, xs, height, width) {
  const found = [];
  const room = height + floor(width / 10) + 1; // for the steepest line, however wide the picture
  const delta = -0.2 + 0.005 - -0.2; // as np.arange(-0.2, 0.2001, 0.005) steps
  const edge = max(2, floor(width / 25));
  for (let k = 0; k < 81; k++) {
    const slope = -0.2 + k * delta;
    const shift = Int32Array.from({ length: width }, (_, x) => rint(slope * (x - width / 2)));
    const level = Int32Array.from(ys, (y, i) => y - shift[xs[i]] + room);
    const counts = new Uint32Array(max(2 * room + height, largestOf(level) + 1));
    for (const value of level) counts[value]++;
    const peaks = [];
    for (let i = 0; i + 1 < counts.length; i++) if (counts[i] + counts[i + 1] > 0.5 * width) peaks.push(i);
    if (peaks.length > floor(height / 2)) return null;
    for (const peak of peaks) {
      const on = [];
      const columns = new Uint8Array(width);
      level.forEach((value, i) => {
        if (value < peak - 1 || value > peak + 2) return;
        on.push(i);
        columns[xs[i]] = 1;
      });
      const crosses = columns.subarray(0, edge).includes(1) && columns.subarray(-edge).includes(1);
      if (sum(columns) > (crosses ? 0.55 : 0.65) * width) found.push({ crosses, on });
    }
  }
  return found;
}

/** Only what lies in vertical runs of at least `length` pixels. */
function opened({ height, width, data }, length) {
  const out = grid(height, width, Uint8Array);
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      const start = y;
      while (y < height && data[y * width + x]) y++;
      if (y - start >= length) for (let v = start; v < y; v++) out.data[v * width + x] = 1;
    }
  }
  return out;
}
