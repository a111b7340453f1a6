// Pillow's Image.resize, bit for bit along one axis: the filters and the arithmetic of its src/libImaging/Resample.c.
// Along both it goes across first, and downward first where a picture more than twice as high as wide becomes lower:
// as Pillow 13 does, so that a byte between the two is rounded alike.

const FILTERS = {
  box: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    weight(x) {
      const a = -0.5;
      const d = Math.abs(x);
      if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
      return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
    },
  },
};
const PRECISION_BITS = 32 - 8 - 2;

/** A float32 grid resized, rounded to float32 in between. */
export function resized(values, height, width, filter) {
  return both(values, 1, height, width, FILTERS[filter], { Type: Float32Array });
}

/** A picture of bytes resized, in fixed point, rounded to bytes in between. */
export function resizedBytes({ height: h, width: w, channels, data }, height, width, filter) {
  const picture = { height: h, width: w, data };
  return { ...both(picture, channels, height, width, FILTERS[filter], { Type: Uint8Array, fixed: true }), channels };
}

function both(values, channels, height, width, filter, kind) {
  const wide = (out) => (width === out.width ? out : across(out, channels, width, filter, kind));
  const high = (out) => (height === out.height ? out : down(out, channels, height, filter, kind));
  return values.height > 2 * values.width && height < values.height ? wide(high(values)) : high(wide(values));
}

/** For each of n outputs: its first input and the weights of that and the following ones. */
function coefficients(size, n, { support: reach, weight }, fixed) {
  const scale = size / n;
  const filterScale = Math.max(1, scale);
  const support = reach * filterScale;
  const inverse = 1 / filterScale;
  return Array.from({ length: n }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(size, Math.trunc(centre + support + 0.5));
    const weights = new Float64Array(last - first).map((_, k) => weight((k + first - centre + 0.5) * inverse));
    const total = weights.reduce((a, b) => a + b, 0);
    for (let k = 0; k < weights.length; k++) {
      if (total !== 0) weights[k] /= total;
      if (fixed) weights[k] = Math.trunc(weights[k] * 2 ** PRECISION_BITS + (weights[k] < 0 ? -0.5 : 0.5));
    }
    return { first, weights };
  });
}

function across({ height, width, data }, channels, n, filter, { Type, fixed }) {
  const out = new Type(height * n * channels);
  const all = coefficients(width, n, filter, fixed);
  const half = fixed ? 2 ** (PRECISION_BITS - 1) : 0;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < n; x++) {
      const { first, weights } = all[x];
      for (let channel = 0; channel < channels; channel++, i++) {
        let total = half;
        for (let k = 0, at = (y * width + first) * channels + channel; k < weights.length; k++, at += channels)
          total += data[at] * weights[k];
        out[i] = fixed ? byte(total) : total;
      }
    }
  }
  return { height, width: n, data: out };
}

function down({ height, width, data }, channels, n, filter, { Type, fixed }) {
  const stride = width * channels;
  const out = new Type(n * stride);
  const half = fixed ? 2 ** (PRECISION_BITS - 1) : 0;
  coefficients(height, n, filter, fixed).forEach(({ first, weights }, y) => {
    const totals = new Float64Array(stride).fill(half); // a row at a time, as it lies in memory
    for (let k = 0; k < weights.length; k++) {
      const [at, weight] = [(first + k) * stride, weights[k]];
      for (let x = 0; x < stride; x++) totals[x] += data[at + x] * weight;
    }
    out.set(fixed ? totals.map(byte) : totals, y * stride);
  });
  return { height: n, width, data: out };
}

const byte = (sum) => Math.min(255, Math.max(0, Math.floor(sum / 2 ** PRECISION_BITS)));
