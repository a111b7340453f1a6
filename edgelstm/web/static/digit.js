// Drawn strokes -> the picture that the network reads: size, pen and place as MNIST's digits were made.

const FINE = 8; // subpixels of a pixel, each way
const BOX = 20 / 28; // MNIST fits a digit into 20 x 20 of its 28 x 28 pixels
const [THINNEST, THICKEST] = [2.2 / 20, 3.6 / 20]; // pens that are left as they are, in shares of the box

/**
 * Strokes, lists of [x, y], and the pen's width, all in one unit -> Uint8Array (rows * cols), 0 is ground, 255 ink.
 *
 * Computed rather than drawn on a canvas: each browser smooths edges in its own way.
 */
export function digitFromStrokes(strokes, pen, rows, cols) {
  const [left, right] = extent(strokes, 0);
  const [top, bottom] = extent(strokes, 1);
  const size = Math.max(right - left, bottom - top, pen); // a dot stays one, it is not enlarged into a scribble
  const box = BOX * Math.min(rows, cols) * FINE;
  const width = clamp((box * pen) / (size + pen), THINNEST * box, THICKEST * box);
  const scale = (box - width) / size; // the ink's outside fills the box
  const [height, breadth] = [rows * FINE, cols * FINE];
  const mask = new Uint8Array(height * breadth);
  const place = ([x, y]) =>
    [(x - (left + right) / 2) * scale + breadth / 2, (y - (top + bottom) / 2) * scale + height / 2];
  for (const stroke of strokes) {
    const points = stroke.map(place);
    points.forEach((point, i) => ink(mask, breadth, points[Math.max(0, i - 1)], point, width / 2));
  }
  return centred(mask, rows, cols);
}

/** Set the subpixels that are no further than `radius` from a line. */
function ink(mask, breadth, [x0, y0], [x1, y1], radius) {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const square = dx * dx + dy * dy || 1;
  for (let y = Math.floor(Math.min(y0, y1) - radius); y < Math.max(y0, y1) + radius; y++) {
    for (let x = Math.floor(Math.min(x0, x1) - radius); x < Math.max(x0, x1) + radius; x++) {
      const [px, py] = [x + 0.5 - x0, y + 0.5 - y0]; // from its start to the subpixel's middle
      const share = clamp((px * dx + py * dy) / square, 0, 1);
      if ((px - share * dx) ** 2 + (py - share * dy) ** 2 <= radius * radius) mask[y * breadth + x] = 1;
    }
  }
}

/** The centre of mass in the middle, as far as there is room, and FINE x FINE subpixels averaged into each pixel. */
function centred(mask, rows, cols) {
  const breadth = cols * FINE;
  const places = [];
  mask.forEach((inked, i) => inked && places.push([i % breadth, Math.floor(i / breadth)]));
  const [right, down] = [cols, rows].map((n, axis) => {
    const mean = places.reduce((sum, place) => sum + place[axis], 0.5 * places.length) / places.length;
    const [first, last] = extent([places], axis);
    return clamp(Math.round((n * FINE) / 2 - mean), -first, n * FINE - 1 - last);
  });
  const counts = new Uint8Array(rows * cols);
  for (const [x, y] of places) counts[Math.floor((y + down) / FINE) * cols + Math.floor((x + right) / FINE)]++;
  return counts.map((count) => Math.round((255 * count) / FINE ** 2));
}

/** Smallest and largest coordinate of all the points along one axis. */
function extent(lists, axis) {
  const values = lists.flat().map((point) => point[axis]);
  return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
}

const clamp = (value, least, most) => Math.min(most, Math.max(least, value));
