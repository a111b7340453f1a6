// What the picture preparation needs of NumPy, with NumPy's own rounding: grids are { height, width, data }.

export const grid = (height, width, Type = Float32Array) => ({ height, width, data: new Type(height * width) });

/** A grid of the same shape, each value computed from its index. */
export function mapped(like, value, Type = Float32Array) {
  const out = grid(like.height, like.width, Type);
  for (let i = 0; i < out.data.length; i++) out.data[i] = value(i);
  return out;
}

/** values[top:bottom, left:right] */
export function crop({ height, width, data }, top, bottom, left, right) {
  [top, bottom] = [Math.max(0, top), Math.min(height, bottom)];
  [left, right] = [Math.max(0, left), Math.min(width, right)];
  const out = grid(Math.max(0, bottom - top), Math.max(0, right - left), data.constructor);
  for (let y = 0; y < out.height; y++) {
    const start = (top + y) * width + left;
    out.data.set(data.subarray(start, start + out.width), y * out.width);
  }
  return out;
}

/** Zeros all around. */
export function padded({ height, width, data }, by) {
  const out = grid(height + 2 * by, width + 2 * by, data.constructor);
  for (let y = 0; y < height; y++) out.data.set(data.subarray(y * width, (y + 1) * width), (y + by) * out.width + by);
  return out;
}

export function transposed({ height, width, data }) {
  const out = grid(width, height, data.constructor);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) out.data[x * height + y] = data[y * width + x];
  return out;
}

/** The outermost rows and columns, one after the other. */
export function rimOf({ height, width, data }) {
  const rim = new data.constructor(2 * (height + width));
  rim.set(data.subarray(0, width));
  rim.set(data.subarray((height - 1) * width), width);
  for (let y = 0; y < height; y++) {
    rim[2 * width + y] = data[y * width];
    rim[2 * width + height + y] = data[y * width + width - 1];
  }
  return rim;
}

/** To the nearest whole number, halves to the even one: np.rint, and Python's round. */
export function rint(value) {
  const below = Math.floor(value);
  const rest = value - below;
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1;
}

/** The sum as NumPy's float32 has it, bit for bit: pairwise, in blocks of at most 128, in eight running sums. */
export function sum32(values, start = 0, n = values.length) {
  const { fround } = Math;
  if (n < 8) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum = fround(sum + values[start + i]);
    return sum;
  }
  if (n <= 128) {
    const r = values.slice(start, start + 8);
    let i = 8;
    for (; i < n - (n % 8); i += 8) for (let k = 0; k < 8; k++) r[k] += values[start + i + k]; // a Float32Array rounds
    const half = (k) => fround(fround(r[k] + r[k + 1]) + fround(r[k + 2] + r[k + 3]));
    let sum = fround(half(0) + half(4));
    for (; i < n; i++) sum = fround(sum + values[start + i]);
    return sum;
  }
  let first = n >> 1;
  first -= first % 8;
  return fround(sum32(values, start, first) + sum32(values, start + first, n - first));
}

export function sum(values) {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i];
  return total;
}

/** Index of the first of the largest values. */
export function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

export const largestOf = (values) => values[argmax(values)];
export const smallestOf = (values) => -largestOf(values.map((value) => -value));

/** The middle value; of a large array that of an even sample. */
export function median(values) {
  const step = Math.max(1, Math.floor(values.length / 4096));
  const sample = new values.constructor(Math.ceil(values.length / step));
  for (let i = 0; i < sample.length; i++) sample[i] = values[i * step];
  return sample.sort()[sample.length >> 1];
}

/** n values from -1 to 1, as float32. */
export function span(n) {
  const out = new Float32Array(n).fill(-1);
  for (let i = 1; i < n; i++) out[i] = i === n - 1 ? 1 : i * (2 / (n - 1)) - 1;
  return out;
}

/** Eigenvalues, ascending, and their vectors of a small symmetric matrix (list of rows), by Jacobi's rotations. */
export function eigen(matrix) {
  const n = matrix.length;
  const a = matrix.map((row) => Array.from(row));
  const vectors = a.map((_, i) => a.map((_, j) => Number(i === j)));
  for (let sweep = 0; sweep < 60; sweep++) {
    let [off, on] = [0, 0];
    for (let p = 0; p < n; p++) {
      on += a[p][p] ** 2;
      for (let q = p + 1; q < n; q++) off += a[p][q] ** 2;
    }
    if (off <= 1e-36 * on) break; // far below what a double can show
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        if (a[p][q] === 0) continue;
        const theta = (a[q][q] - a[p][p]) / (2 * a[p][q]);
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(t * t + 1);
        const s = t * c;
        for (let k = 0; k < n; k++) [a[k][p], a[k][q]] = [c * a[k][p] - s * a[k][q], s * a[k][p] + c * a[k][q]];
        for (let k = 0; k < n; k++) [a[p][k], a[q][k]] = [c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]];
        for (const v of vectors) [v[p], v[q]] = [c * v[p] - s * v[q], s * v[p] + c * v[q]];
      }
    }
  }
  const order = a.map((_, i) => i).sort((i, j) => a[i][i] - a[j][j]);
  return { values: order.map((i) => a[i][i]), vectors: order.map((i) => vectors.map((row) => row[i])) };
}
