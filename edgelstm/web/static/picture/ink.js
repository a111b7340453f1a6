// Which pixels are ink: edgelstm/picture/ink.py in JavaScript, function by function.

import { argmax, crop, eigen, grid, largestOf, mapped, median, rint, span, sum, sum32, transposed } from "./arrays.js";
import { resized } from "./resize.js";

const EVEN_SHARE = 0.6;
const GROUND_PX = 160;
const MIN_CONTRAST = 0.04;
const LUMA = Float32Array.of(0.299, 0.587, 0.114);
const { abs, fround, max, min, trunc } = Math;

/** Grey as it is; colour along the direction in which the ink differs most. */
export function greyFrom({ height, width, channels, data }) {
  const grey = grid(height, width);
  if (channels === 1) {
    grey.data.set(data);
    return grey;
  }
  const n = height * width;
  const channel = [0, 1, 2].map((c) => everyThird(data, c));
  const middle = channel.map(median);
  const spread = [[0, 0, 0], [0, 0, 0], [0, 0, 0]];
  const bright = new Float32Array(n);
  for (let i = 0; i < n; i++) {
    const [r, g, b] = [channel[0][i] - middle[0], channel[1][i] - middle[1], channel[2][i] - middle[2]];
    bright[i] = LUMA[0] * r + LUMA[1] * g + LUMA[2] * b;
    spread[0][0] += r * r;
    spread[0][1] += r * g;
    spread[0][2] += r * b;
    spread[1][1] += g * g;
    spread[1][2] += g * b;
    spread[2][2] += b * b;
  }
  const { values, vectors } = eigen(spread.map((row, a) => row.map((_, b) => spread[min(a, b)][max(a, b)] / n)));
  let main = Float32Array.from(vectors[2]);
  let lowest = 0;
  if (variance(bright) * 3 < values[2] * dot(LUMA, ...LUMA)) {
    const size = abs(main[0]) + abs(main[1]) + abs(main[2]);
    main = main.map((value) => value / size);
    if (dot(main, ...LUMA) < 0) main = main.map((value) => -value);
    lowest = fround(255 * main.reduce((total, value) => total + min(0, value), 0));
  } else main = LUMA;
  for (let i = 0; i < n; i++) {
    grey.data[i] = fround(main[0] * channel[0][i] + main[1] * channel[1][i] + main[2] * channel[2][i]) - lowest;
  }
  return grey;
}

function everyThird(data, first) {
  const out = new Float32Array(data.length / 3);
  for (let i = 0; i < out.length; i++) out[i] = data[3 * i + first];
  return out;
}

const dot = ([a, b, c], x, y, z) => a * x + b * y + c * z;

function variance(values) {
  const mean = sum(values) / values.length;
  let total = 0;
  for (const value of values) total += (value - mean) ** 2;
  return total / values.length;
}

/** Running maximum (or minimum) over squares of odd side; the edge is repeated outwards. */
function extreme(values, size, highest) {
  return transposed(extremeDown(transposed(extremeDown(values, size, highest)), size, highest));
}

function extremeDown({ height, width, data }, size, highest) {
  const half = size >> 1;
  let rows = height + 2 * half;
  let now = new Float32Array(rows * width);
  for (let y = 0; y < rows; y++) {
    const at = min(height - 1, max(0, y - half)) * width;
    now.set(data.subarray(at, at + width), y * width);
  }
  for (let window = 1; window < size; ) { // doubling: a window of 2k is the pick of two windows of k
    const step = min(window, size - window);
    rows -= step;
    const ahead = step * width;
    for (let i = 0; i < rows * width; i++) { // in place: it only looks ahead
      const other = now[i + ahead];
      if (highest ? other > now[i] : other < now[i]) now[i] = other;
    }
    window += step;
  }
  return { height, width, data: now.slice(0, height * width) };
}

function small(grey) {
  const scale = max(grey.height, grey.width) / GROUND_PX;
  if (scale <= 1) return grey;
  return resized(grey, max(1, rint(grey.height / scale)), max(1, rint(grey.width / scale)), "box");
}

/** The paper without its ink: closing (dark ink) or opening (light ink) of a small copy. */
function groundOf(copy, share, dark) {
  const window = max(2 * trunc((share * min(copy.height, copy.width)) / 2) + 1, 3);
  return extreme(extreme(copy, window, dark), window, !dark);
}

/** How far each pixel is from the paper behind it. */
function contrast(grey, copy, share, dark) {
  let ground = groundOf(copy, share, dark);
  if (copy !== grey) ground = resized(ground, grey.height, grey.width, "bilinear");
  return mapped(grey, (i) => abs(ground.data[i] - grey.data[i]));
}

/** 1 in the middle, falling towards the edges, where frames and shadows are. */
function centreWeight(height, width) {
  const [ys, xs] = [height, width].map((n) => span(n).map((value) => 1 - fround(value ** 4)));
  const out = grid(height, width);
  for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i++) out.data[i] = ys[y] * xs[x];
  return out;
}

/** A smooth surface through the majority of the pixels, by reweighted least squares. */
function surface(grey) {
  const copy = resized(grey, min(grey.height, 48), min(grey.width, 48), "box");
  const terms = quadratics(copy);
  const fitted = new Float64Array(copy.data.length).fill(median(copy.data));
  let level;
  for (let turn = 0; turn < 8; turn++) {
    const square = Array.from({ length: 6 }, () => new Float64Array(6));
    const right = new Float64Array(6);
    for (let i = 0; i < fitted.length; i++) {
      const weight = 1 / (abs(copy.data[i] - fitted[i]) + 2);
      for (let a = 0; a < 6; a++) {
        const term = weight * terms[6 * i + a];
        right[a] += term * copy.data[i];
        for (let b = 0; b < 6; b++) square[a][b] += term * terms[6 * i + b];
      }
    }
    level = solved(square, right);
    for (let i = 0; i < fitted.length; i++) fitted[i] = height(terms, i, level);
  }
  const all = quadratics(grey);
  return mapped(grey, (i) => height(all, i, level));
}

function height(terms, i, level) {
  let total = 0;
  for (let k = 0; k < 6; k++) total += terms[6 * i + k] * level[k];
  return total;
}

/** The terms 1, x, y, xx, xy, yy of each pixel, one after the other. */
function quadratics({ height: h, width: w }) {
  const [ys, xs] = [span(h), span(w)];
  const terms = new Float32Array(6 * h * w);
  for (let y = 0, i = 0; y < h; y++) {
    for (let x = 0; x < w; x++, i += 6) {
      terms[i] = 1;
      terms[i + 1] = xs[x];
      terms[i + 2] = ys[y];
      terms[i + 3] = xs[x] * xs[x];
      terms[i + 4] = xs[x] * ys[y];
      terms[i + 5] = ys[y] * ys[y];
    }
  }
  return terms;
}

/** The shortest of the best solutions of a symmetric system, as np.linalg.lstsq gives. */
function solved(square, right) {
  const { values, vectors } = eigen(square);
  const least = 6 * Number.EPSILON * values.at(-1);
  const out = new Float64Array(6);
  values.forEach((value, k) => {
    if (value <= least) return;
    const share = vectors[k].reduce((total, v, i) => total + v * right[i], 0) / value;
    for (let i = 0; i < 6; i++) out[i] += share * vectors[k][i];
  });
  return out;
}

/** The one grey value of a drawing's ground; null for other pictures. */
export function evenGround(grey) {
  const counts = new Uint32Array(256);
  for (const value of grey.data) counts[rint(value) & 255]++;
  const ground = argmax(counts);
  return counts[ground] >= EVEN_SHARE * grey.data.length ? ground : null;
}

/** How much ink covers each pixel of a drawing, whose ground is one exact value; null for other pictures. */
export function inkOnEvenGround(grey) {
  const ground = evenGround(grey);
  if (ground === null) return null;
  const weight = centreWeight(grey.height, grey.width).data;
  const away = grey.data.map((value) => value - ground);
  const darker = away.map((value) => max(-value, 0));
  const lighter = away.map((value) => max(value, 0));
  const mass = (side) => sum32(side.map((value, i) => fround(weight[i] * value) * value));
  const dark = mass(darker) >= mass(lighter);
  return mapped(grey, (i) => (dark ? darker[i] / max(ground, 32) : lighter[i] / 255));
}

/** Whether the things in the picture are darker than the majority, and than what is around them. */
export function inkIsDark(full) {
  const grey = small(full);
  const weight = centreWeight(grey.height, grey.width).data;
  const plane = surface(grey).data;
  const away = grey.data.map((value, i) => value - plane[i]);
  let balance = 0;
  for (const [share, trust] of [[0.06, 8], [0.12, 2], [0.3, 1]]) { // thin things say more than wide ones
    const closed = groundOf(grey, share, true).data;
    const opened = groundOf(grey, share, false).data;
    balance += trust * sum32(grey.data.map((value, i) => {
      const dark = min(fround(closed[i] - value), max(-away[i], 0));
      const light = min(fround(value - opened[i]), max(away[i], 0));
      return weight[i] * fround(fround(dark * dark) - fround(light * light));
    }));
  }
  return balance >= 0;
}

/** How much ink covers each pixel, from 0 to about 1. */
export function inkFrom(grey, dark) {
  const copy = small(grey);
  let wide = contrast(grey, copy, 0.35, dark);
  const narrow = contrast(grey, copy, 0.08, dark);
  const votes = slopeVotes(grey);
  if (votes) {
    const weight = inner(centreWeight(grey.height, grey.width)).data;
    const central = votes.data.map((vote, i) => (weight[i] > fround(0.6) ? vote : 0));
    const mass = (values) => sum32(inner(values).data.map((value, i) => central[i] * value));
    if (mass(narrow) > 0.7 * mass(wide)) wide = contrast(grey, copy, 0.12, dark);
  }
  const w = wide.data;
  return mapped(grey, (i) => (dark ? w[i] / max(fround(grey.data[i] + w[i]), 32) : w[i] / 255));
}

/** All but the outermost pixels. */
const inner = (values) => crop(values, 1, values.height - 1, 1, values.width - 1);

/** How far each inner pixel is an edge of something in the middle; null if there are none. */
export function slopeVotes({ height, width, data }) {
  if (min(height, width) < 3) return null;
  const slope = grid(height - 2, width - 2);
  for (let y = 1, i = 0; y < height - 1; y++) {
    for (let x = 1; x < width - 1; x++, i++) {
      const at = y * width + x;
      slope.data[i] = max(abs(fround(data[at + width] - data[at - width])), abs(fround(data[at + 1] - data[at - 1])));
    }
  }
  const grain = 4 * median(slope.data); // the median slope is grain
  const weight = inner(centreWeight(height, width)).data;
  for (let i = 0; i < weight.length; i++) {
    const value = slope.data[i];
    slope.data[i] = value > grain ? fround(value * value) * weight[i] : 0;
  }
  return sum32(slope.data) > 0 ? slope : null;
}

/** The ink level halfway up the edges of strokes; null if nothing stands out of the noise. */
export function threshold(ink, votes) {
  if (!votes || largestOf(ink.data) < MIN_CONTRAST) return null;
  const within = inner(ink).data;
  const level = fround(sum32(votes.data.map((vote, i) => vote * within[i])) / sum32(votes.data));
  return max(level, MIN_CONTRAST / 2);
}

/** Averaged over 3 x 3 pixels with the weights 1, 2, 1 each way. */
export function blurred(ink) {
  const { height, width } = ink;
  const down = mapped(ink, (i) => {
    const [before, after] = [i >= width ? i - width : i, i < (height - 1) * width ? i + width : i];
    return fround(fround(ink.data[before] + 2 * ink.data[i]) + ink.data[after]) / 4;
  });
  return mapped(ink, (i) => {
    const x = i % width;
    const [before, after] = [x > 0 ? i - 1 : i, x < width - 1 ? i + 1 : i];
    return fround(fround(down.data[before] + 2 * down.data[i]) + down.data[after]) / 4;
  });
}
