// The page: what is drawn is made a picture, read by the model, and shown.

import { digitFromStrokes } from "./digit.js";
import { largest, loadModel } from "./engine.js";
import { measure } from "./latency.js";
import { Pad, PEN } from "./pad.js";
import { $, make, percent, ReadingView } from "./views.js";

const pad = new Pad($("pad"), changed);
let [model, view, measured] = [null, null, false];
let waiting = null; // a change that is read with the next frame: whether it is finished

function changed(finished) {
  $("undo").disabled = !pad.history.length;
  $("clear").disabled = pad.empty;
  if (waiting === null) requestAnimationFrame(read);
  waiting = finished || Boolean(waiting);
}

function read() {
  const finished = waiting;
  waiting = null;
  if (!model) return;
  if (pad.empty) {
    view.clear();
    $("spoken").textContent = "";
    return;
  }
  const picture = digitFromStrokes(pad.curves, PEN, model.rows, model.cols);
  const logits = model.logitsByStep(picture);
  const even = model.classNames.map(() => 1 / model.classNames.length); // before the first row
  const probabilities = [even, ...logits.map((step) => model.probabilities(step))];
  view.set({ picture, probabilities, settled: model.settledAfter(logits) }, finished);
  if (!finished) return;
  const last = probabilities.at(-1);
  $("spoken").textContent = `${model.classNames[largest(last)]}, ${percent(Math.max(...last))}`;
  document.body.dataset.read = String(Number(document.body.dataset.read ?? 0) + 1);
  $("measure").disabled = false;
  if (!measured) setTimeout(showLatency, 1200); // after the sweep, so that neither disturbs the other
  measured = true;
}

async function showLatency() {
  if (!view.reading || $("measure").ariaBusy === "true") return;
  $("measure").ariaBusy = "true";
  $("measure").disabled = true;
  $("measured").textContent = "measuring";
  const { samples, tick, whole, one } = await measure(model, view.reading.picture);
  const step = model.rowsPerStep === 1 ? "one row" : `${model.rowsPerStep} rows`;
  const rows = Object.entries({ [`a picture, ${model.rows} rows`]: whole, [step]: one });
  $("percentiles").replaceChildren(...rows.map(([name, { ms }]) =>
    make("tr", {}, make("th", { scope: "row" }, name), ...ms.map((time) => make("td", {}, inWords(time))))));
  const each = `each the mean of ${whole.calls} and ${one.calls} runs, one thread`;
  $("measured").textContent = `${samples} samples, ${each}; the browser's clock ticks every ${inWords(tick)}`;
  $("measure").ariaBusy = "false";
  $("measure").textContent = "Measure again";
  $("measure").disabled = false;
}

const inWords = (ms) => (ms < 1 ? `${Number((1000 * ms).toPrecision(3))}\u00a0µs` : `${ms.toFixed(2)}\u00a0ms`);

for (const id of ["undo", "clear"]) $(id).addEventListener("click", () => pad[id]());
$("measure").addEventListener("click", showLatency);
loadModel(JSON.parse($("data").textContent)).then((loaded) => {
  model = loaded;
  view = new ReadingView(model);
  $("model").textContent = model.data.about;
  document.body.dataset.ready = "true";
  changed(true); // something may have been drawn meanwhile
}, (error) => {
  $("confidence").textContent = "the model did not load";
  $("problem").textContent = `This needs a browser of 2023 or later, with WebAssembly and its SIMD: ${error.message}`;
});
