// How long the model takes in this page: repeated runs at batch 1, and their percentiles.

const RUNS = 1000;
const WARM_UP = 50;
const SLICE_MS = 12; // then the page gets its turn

/** Percentiles of one call that reads the whole picture and of one that reads one step, in ms. */
export async function measure(reader, pixels) {
  const first = reader.begin();
  const step = pixels.subarray(0, reader.rowsPerStep * reader.cols);
  const calls = { picture: () => reader.push(pixels, first), step: () => reader.push(step, first) };
  const times = { picture: [], step: [] };
  let slice = performance.now();
  for (let i = 0; i < WARM_UP + RUNS; i++) {
    for (const name in calls) { // taking turns, so that a busy moment hurts both alike
      const start = performance.now();
      await calls[name]();
      const end = performance.now();
      if (i >= WARM_UP) times[name].push(end - start);
      if (end - slice > SLICE_MS) {
        await new Promise((resolve) => setTimeout(resolve));
        slice = performance.now();
      }
    }
  }
  const found = (name) => [0.5, 0.9, 0.99].map((share) => percentile(times[name], share));
  return { runs: RUNS, picture: found("picture"), step: found("step"), tick: clockTick() };
}

/** The smallest of the values that at least this share of them do not exceed. */
export function percentile(values, share) {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}

/** The smallest step of the browser's clock, in ms: browsers coarsen it where pages are not isolated. */
function clockTick() {
  let tick = Infinity;
  for (let i = 0; i < 20; i++) {
    const start = performance.now();
    let now = start;
    while (now === start) now = performance.now();
    tick = Math.min(tick, now - start);
  }
  return tick;
}
