// The streaming model in this page: rows and state in, logits and the next state out, on onnxruntime-web's WebAssembly.

import * as ort from "./ort.wasm.bundle.min.js";

ort.env.wasm.numThreads = 1; // a second thread costs more than it gives at batch 1
ort.env.wasm.wasmPaths = { wasm: new URL("./ort-wasm-simd-threaded.wasm", import.meta.url).href };

export const onnxruntimeVersion = ort.env.versions.web;

/** The page's own model and what it says of itself: its contract, from model.json. */
export async function loadReader() {
  const [about, bytes] = await Promise.all([
    fetched("model.json").then((answer) => answer.json()),
    fetched("model.onnx").then((answer) => answer.arrayBuffer()),
  ]);
  const session = await ort.InferenceSession.create(new Uint8Array(bytes), { executionProviders: ["wasm"] });
  return new Reader(session, about);
}

async function fetched(name) {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) throw new Error(`${name}: the server says ${answer.status}`);
  return answer;
}

export class Reader {
  constructor(session, about) {
    this.session = session;
    this.about = about;
  }

  get rows() { return this.about.config.rows; }
  get cols() { return this.about.config.cols; }
  get rowsPerStep() { return this.about.config.rows_per_step; }
  get classNames() { return this.about.config.class_names; }

  /** The state before the first row: zeros. */
  begin() {
    const { n_layers: layers, hidden_size: hidden } = this.about.config;
    const zeros = () => new ort.Tensor("float32", new Float32Array(layers * hidden), [layers, 1, hidden]);
    return { h: zeros(), c: zeros() };
  }

  /** Read the next rows, Uint8Array of n * cols: their logits, Float32Array (classes), and the next state. */
  async push(pixels, { h, c }) {
    const row = new ort.Tensor("uint8", pixels, [1, pixels.length / this.cols, this.cols]);
    const found = await this.session.run({ row, h, c });
    return { logits: found.logits.data, state: { h: found.h_out, c: found.c_out } };
  }

  /** Logits of a whole picture, Uint8Array (rows * cols), in one call. */
  async logits(pixels) {
    return (await this.push(pixels, this.begin())).logits;
  }

  /** Logits after each step, one call a step: a list of Float32Array (classes). */
  async logitsByStep(pixels) {
    const found = [];
    const size = this.rowsPerStep * this.cols;
    let state = this.begin();
    for (let at = 0; at < pixels.length; at += size) {
      const step = await this.push(pixels.subarray(at, at + size), state);
      state = step.state;
      found.push(step.logits);
    }
    return found;
  }

  /** Softmax of logits over the model's own temperature, which makes confidence mean what it says. */
  probabilities(logits, temperature = this.about.temperature) {
    const top = Math.max(...logits);
    const odds = Array.from(logits, (logit) => Math.exp((logit - top) / temperature));
    const sum = odds.reduce((a, b) => a + b);
    return odds.map((odd) => odd / sum);
  }

  /**
   * After how many rows the answer is settled by the model's own rule: a probability of at least `confidence`
   * for the same class over `n_stable` steps in a row. null: not before the end, or the model has no rule.
   */
  settledAfter(logitsByStep) {
    const rule = this.about.early;
    let first = -1;
    let held = 0;
    for (let step = 1; rule && step < logitsByStep.length; step++) {
      const probabilities = this.probabilities(logitsByStep[step - 1], rule.temperature);
      const best = largest(probabilities);
      held = probabilities[best] < rule.confidence ? 0 : best === first ? held + 1 : 1;
      first = best;
      if (held >= rule.n_stable) return step * this.rowsPerStep;
    }
    return null;
  }
}

/** Index of the largest value. */
export function largest(values) {
  return values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
}
