// A picture file or pasted picture -> a decoded array, as edgelstm/picture/decoding.py has it; the decoder is the browser's.

import { opaque } from "./picture/opaque.js";

const MAX_PIXELS = 52_000_000;
const KEEP_PX = 1600; // larger pictures are reduced by a whole factor to at most twice this

/** { array, bitmap } of a File or Blob. Throws an Error with a line for the reader. */
export async function pictureFromFile(file) {
  const name = file.name || "The picture";
  let bitmap;
  try {
    // as stored: no colour management, alpha apart from colour; upright as EXIF says
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Error(`${name} is no picture that this browser reads; save it as PNG or JPEG.`);
  }
  if (bitmap.width * bitmap.height > MAX_PIXELS) throw new Error(`${name} has too many pixels: at most 52 million.`);
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const factor = Math.max(1, Math.floor(Math.max(width, height) / KEEP_PX));
  return { bitmap, array: opaque(reduced({ width, height, channels: 4, data: rgba }, factor)) };
}

/** Averaged over squares of `factor`, what is left over at the right and below too. */
function reduced({ width, height, channels, data }, factor) {
  if (factor === 1) return { width, height, channels, data };
  const [w, h] = [Math.ceil(width / factor), Math.ceil(height / factor)];
  const small = new Uint8Array(w * h * channels);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      const [right, bottom] = [Math.min(width, (x + 1) * factor), Math.min(height, (y + 1) * factor)];
      const n = (right - x * factor) * (bottom - y * factor);
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0;
        for (let v = y * factor; v < bottom; v++)
          for (let u = x * factor; u < right; u++) sum += data[(v * width + u) * channels + channel];
        small[(y * w + x) * channels + channel] = Math.floor((sum + (n >> 1)) / n); // Pillow's reduce rounds so
      }
    }
  }
  return { width: w, height: h, channels, data: small };
}
