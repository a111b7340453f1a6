// Find the digit in a decoded picture and draw it as MNIST would have it: edgelstm/picture/digit.py in JavaScript.

import { crop, grid, largestOf, mapped, median, rimOf, rint, sum, sum32 } from "./arrays.js";
import { boxOf, choose, grown, label, sheetOf, withoutLines } from "./blobs.js";
import {
  blurred, evenGround, greyFrom, inkFrom, inkIsDark, inkOnEvenGround, slopeVotes, threshold,
} from "./ink.js";
import { resizedBytes } from "./resize.js";
import { sheetOnly } from "./sheet.js";
import { BOX_SHARE, drawn, strokeWidth } from "./strokes.js";

const WORK_PX = 320;
const FAINT = 3.5;
const { abs, fround, max, min } = Math;

/**
 * The digit of a decoded picture, { height, width, channels: 1 or 3, data: Uint8Array }: { pixels: Uint8Array
 * (rows * cols), 0 = background, 255 = ink; note: in plain words or null; empty: no ink was found }.
 */
export function digitFromArray(picture, rows = 28, cols = 28) {
  picture = colourless(picture);
  if (picture.channels === 1 && picture.height === rows && picture.width === cols) {
    for (const data of [picture.data, picture.data.map((value) => 255 - value)]) {
      if (!isReady({ height: rows, width: cols, data })) continue;
      const empty = !data.some(Boolean);
      return { pixels: data.slice(), note: empty ? "no ink found" : null, empty };
    }
  }
  const found = find(picture);
  if (!found) return { pixels: new Uint8Array(rows * cols), note: "no ink found", empty: true };
  return { pixels: drawn(found.ink, rows, cols), note: found.note, empty: false };
}

/** In one channel, if all are the same. */
function colourless({ height, width, channels, data }) {
  if (channels === 3) {
    for (let i = 0; i < data.length; i += 3) {
      if (data[i] !== data[i + 1] || data[i] !== data[i + 2]) return { height, width, channels, data };
    }
  }
  if (channels === 1) return { height, width, channels, data };
  const grey = new Uint8Array(height * width);
  for (let i = 0; i < grey.length; i++) grey[i] = data[channels * i];
  return { height, width, channels: 1, data: grey };
}

/** Whether it looks like a picture out of MNIST: light ink on black, boxed and centred. */
function isReady(picture) {
  const { height: rows, width: cols, data } = picture;
  if (!data.some(Boolean)) return true;
  const edge = rimOf(picture);
  if (median(edge) > 8 || sum(edge) / edge.length > 16 || median(data) > 140 || largestOf(data) < 128) return false;
  const [ys, xs] = [new Set(), new Set()];
  let [y, x] = [0, 0];
  data.forEach((value, i) => {
    const [row, col] = [Math.floor(i / cols), i % cols];
    if (value > 96) {
      ys.add(row);
      xs.add(col);
    }
    y += value * row;
    x += value * col;
  });
  const extent = max(max(...ys) - min(...ys), max(...xs) - min(...xs)) + 1;
  if (!(0.45 * rows < extent && extent <= (BOX_SHARE + 0.08) * max(rows, cols))) return false;
  const total = sum(data);
  return abs(y / total + 0.5 - rows / 2) < 0.05 * rows && abs(x / total + 0.5 - cols / 2) < 0.05 * cols;
}

/** The digit's ink, cropped, above 0.5 inside the strokes; and a note. null: no ink. */
function find(picture, depth = 0) {
  const grey = greyFrom(reduced(picture, WORK_PX));
  if (depth < 2) {
    const within = sheetWithin(picture, grey);
    if (within) return find(within, depth + 1);
  }
  const inked = inkedFrom(grey);
  if (!inked) return null;
  const { ink, votes, level } = inked;
  const [strong, unruled] = [above(ink, level), withoutLines(above(ink, 0.6 * level))];
  const mask = mapped(ink, (i) => strong.data[i] & unruled.data[i], Uint8Array);
  const thick = grown(mask);
  const blobs = label(thick); // a pixel or two between two pieces of a stroke is no gap
  const faint = level < FAINT * meanOutside(ink, thick);
  const { chosen, note } = choose(blobs, votes, faint);
  if (!chosen) return null;
  const inside = depth < 2 ? sheetOf(blobs, chosen[0], mask) : null;
  if (inside) {
    const found = find(cut(picture, grey, inside), depth + 1);
    if (found) return found;
  }
  const { top, bottom, left, right } = boxOf(blobs, chosen);
  const extent = max(bottom - top, right - left);
  const larger = max(picture.height, picture.width) > 1.5 * max(grey.height, grey.width);
  if (depth === 0 && extent < 100 && larger) { // small: look closer
    const margin = 0.6 * extent;
    const closer = find(cut(picture, grey, [top - margin, bottom + margin, left - margin, right + margin]), depth + 1);
    if (closer) return { ink: closer.ink, note };
  }
  return { ink: cropped(ink, blobs, chosen, level), note };
}

function above({ height, width, data }, least) {
  const out = grid(height, width, Uint8Array);
  const level = fround(least);
  for (let i = 0; i < data.length; i++) out.data[i] = data[i] > level ? 1 : 0;
  return out;
}

/** The mean of what is not in the mask; 0 if that is nothing. */
function meanOutside(values, mask) {
  const outside = new Float32Array(values.data.length);
  let n = 0;
  for (let i = 0; i < outside.length; i++) if (!mask.data[i]) outside[n++] = values.data[i];
  return n ? fround(sum32(outside, 0, n) / n) : 0;
}

/** The ink of the chosen pieces alone, scaled so that it is 0.5 halfway up the edges of strokes. */
function cropped(ink, blobs, chosen, level) {
  const { top, bottom, left, right } = boxOf(blobs, chosen);
  const box = crop(ink, top, bottom, left, right);
  const labels = crop(blobs.labels, top, bottom, left, right);
  const keep = grown(mapped(box, (i) => Number(chosen.includes(labels.data[i])), Uint8Array));
  const scale = fround(0.5 / (threshold(box, slopeVotes(box)) || level));
  return mapped(box, (i) => (keep.data[i] ? box.data[i] * scale : 0));
}

/** What of the picture is the sheet, if that is not all; `grey` is its smaller copy. */
function sheetWithin(picture, grey) {
  const box = pasted(grey);
  if (box) return cut(picture, grey, box);
  return evenGround(grey) === null ? sheetOnly(picture, grey) : null;
}

/** Top, bottom, left, right in `grey`, a smaller copy, as a part of the picture. */
function cut(picture, grey, box) {
  const scale = max(picture.height, picture.width) / max(grey.height, grey.width);
  const [top, bottom, left, right] = box.map((n) => max(0, rint(n * scale)));
  const { channels } = picture;
  const wide = { height: picture.height, width: picture.width * channels, data: picture.data };
  const part = crop(wide, top, bottom, left * channels, right * channels);
  return { height: part.height, width: part.width / channels, channels, data: part.data };
}

/** How much ink covers each pixel, how far each is an edge, and the level of the edges; null: no ink. */
function inkedFrom(grey) {
  let ink = inkOnEvenGround(grey) ?? inkFrom(grey, inkIsDark(grey));
  let votes = slopeVotes(ink);
  if (!votes && largestOf(ink.data) > 0.5) { // all edges, as the dots of a fax: blur them together
    for (let turn = 0; turn < 4; turn++) grey = blurred(grey);
    ink = inkFrom(grey, inkIsDark(grey));
    votes = slopeVotes(ink);
  }
  const level = threshold(ink, votes);
  if (level === null) return null;
  if (strokeWidth(above(ink, level)) < 2.5) { // hairlines: even out
    const softer = blurred(ink);
    const softVotes = slopeVotes(softer);
    const softLevel = threshold(softer, softVotes);
    if (softLevel !== null) return { ink: softer, votes: softVotes, level: softLevel };
  }
  return { ink, votes, level };
}

/** Top, bottom, left and right of a sheet that lies on an even margin, as a frame or a saved plot has; or null. */
function pasted(grey) {
  const { height, width } = grey;
  const rim = rimOf(grey);
  const margin = median(rim);
  if (rim.filter((value) => abs(fround(value - margin)) < 8).length / rim.length < 0.98) return null;
  const other = mapped(grey, (i) => Number(abs(fround(grey.data[i] - margin)) > 12), Uint8Array);
  const [rows, cols] = [new Float64Array(height), new Float64Array(width)];
  other.data.forEach((value, i) => {
    rows[Math.floor(i / width)] += value;
    cols[i % width] += value;
  });
  const most = (counts, n) => Array.from(counts.keys()).filter((i) => counts[i] / n > 0.4);
  const [ys, xs] = [most(rows, width), most(cols, height)];
  if (!ys.length || !xs.length) return null;
  const [top, bottom, left, right] = [ys[0], ys.at(-1) + 1, xs[0], xs.at(-1) + 1];
  const share = (...box) => {
    const { data } = crop(other, ...box);
    return sum(data) / data.length;
  };
  const full = [
    share(top, top + 3, left, right), share(max(top, bottom - 3), bottom, left, right),
    share(top, bottom, left, left + 3), share(top, bottom, max(left, right - 3), right),
  ];
  if (bottom - top < 0.4 * height || right - left < 0.4 * width || min(...full) < 0.9) return null;
  return [top + 2, bottom - 2, left + 2, right - 2];
}

/** The picture with its longest side at most `longest`, averaged, so that hairlines stay. */
function reduced(picture, longest) {
  const scale = max(picture.height, picture.width) / longest;
  if (scale <= 1) return picture;
  return resizedBytes(picture, max(1, rint(picture.height / scale)), max(1, rint(picture.width / scale)), "box");
}
