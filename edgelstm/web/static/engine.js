// The engine: WebAssembly of the C that `edgelstm compile` writes, and its model. Pixels in, logits out.

/** The model that the page holds: `weights` and `engine` are base64 of zlib, as web/page.py packs them. */
export async function loadModel(data) {
  const [engine, weights] = await Promise.all([data.engine, data.weights].map(unpacked));
  const { instance } = await WebAssembly.instantiate(engine);
  return new Model(instance.exports, weights, data);
}

async function unpacked(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export class Model {
  constructor(engine, weights, data) { // columns: pixels of a step
    const [layers, columns, units, classes] = new Int32Array(weights.buffer, 0, 4);
    const { rows, cols, class_names: classNames } = data;
    Object.assign(this, { engine, data, rows, cols, classNames, columns, rowsPerStep: columns / cols });
    // one behind the other in the engine's memory: the weights, the state, one step's pixels, the logits
    const starts = [engine.start()];
    for (const size of [weights.length, 5 * layers * units, columns, 4 * classes])
      starts.push((starts.at(-1) + size + 15) & ~15);
    const { memory } = engine;
    memory.grow(Math.max(0, Math.ceil((starts.at(-1) - memory.buffer.byteLength) / 65536)));
    new Uint8Array(memory.buffer).set(weights, starts[0]);
    [this.atWeights, this.atState, this.atPixels, this.atLogits] = starts;
    this.state = new Uint8Array(memory.buffer, this.atState, 5 * layers * units);
    this.pixels = new Uint8Array(memory.buffer, this.atPixels, columns);
    this.result = new Float32Array(memory.buffer, this.atLogits, classes);
  }

  /** Read one step: Uint8Array (rowsPerStep * cols). */
  push(pixels) {
    this.pixels.set(pixels);
    this.engine.push(this.atWeights, this.atState, this.atPixels);
  }

  /** After the steps so far: Float32Array (classes). */
  logits() {
    this.engine.logits(this.atWeights, this.atState, this.atLogits);
    return this.result.slice();
  }

  /** A whole picture, Uint8Array (rows * cols), from the first row on; `after` is called behind each step. */
  read(picture, after = () => {}) {
    this.state.fill(0);
    for (let at = 0; at < picture.length; at += this.columns) {
      this.push(picture.subarray(at, at + this.columns));
      after();
    }
    return this.logits();
  }

  /** Logits of a picture after each step: a list of Float32Array (classes). */
  logitsByStep(picture) {
    const found = [];
    this.read(picture, () => found.push(this.logits()));
    return found;
  }

  /** Softmax of logits over the model's own temperature, which makes confidence mean what it says. */
  probabilities(logits, temperature = this.data.temperature) {
    const top = Math.max(...logits);
    const odds = Array.from(logits, (logit) => Math.exp((logit - top) / temperature));
    const sum = odds.reduce((a, b) => a + b);
    return odds.map((odd) => odd / sum);
  }

  // After how many rows the answer is settled by the model's own rule: a probability of at least `confidence` for
  // the same class over `n_stable` steps in a row. null: not before the end, or the model has no rule.
  settledAfter(logitsByStep) {
    const rule = this.data.early;
    let [first, held] = [-1, 0];
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
export const largest = (values) => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
