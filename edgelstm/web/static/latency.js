// How long the model takes in this page: repeated runs at batch 1, and their percentiles.

const SAMPLES = 200;
const WARM_UP_MS = 30;
const [TICKS, MOST_MS] = [10, 20]; // what a sample takes of the clock, for which a call alone may be too short
const SLICE_MS = 12; // then the page gets its turn

/** Percentiles, in ms, of reading a whole picture and of one step with its logits; each sample is a mean of `calls`. */
export async function measure(model, picture) {
  const step = picture.subarray(0, model.columns);
  const tick = clockTick();
  const timed = [() => model.read(picture), () => (model.push(step), model.logits())].map((call) => {
    for (const start = performance.now(); performance.now() < start + WARM_UP_MS;) call();
    let calls = 1; // the quickest of three, for in a busy moment fewer calls would seem enough
    while (Math.min(...[0, 1, 2].map(() => duration(call, calls))) < Math.min(TICKS * tick, MOST_MS)) calls *= 2;
    return { call, calls, times: [] };
  });
  let slice = performance.now();
  for (let i = 0; i < SAMPLES; i++) {
    for (const { call, calls, times } of timed) { // taking turns, so that a busy moment hurts both alike
      times.push(duration(call, calls) / calls);
      if (performance.now() - slice < SLICE_MS) continue;
      await new Promise((resolve) => setTimeout(resolve));
      slice = performance.now();
    }
  }
  const found = ({ calls, times }) => ({ calls, ms: [0.5, 0.9, 0.99].map((share) => percentile(times, share)) });
  return { samples: SAMPLES, tick, whole: found(timed[0]), one: found(timed[1]) };
}

function duration(call, calls) {
  const start = performance.now();
  for (let n = 0; n < calls; n++) call();
  return performance.now() - start;
}

/** The smallest of the values that at least this share of them do not exceed. */
export function percentile(values, share) {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}

/** The smallest step of the browser's clock, in ms: browsers coarsen it where pages are not isolated. */
function clockTick() {
  const ticks = [];
  for (let last = performance.now(); ticks.length < 20;) {
    const now = performance.now();
    if (now > last) ticks.push(now - last);
    last = now;
  }
  return Math.min(...ticks);
}
