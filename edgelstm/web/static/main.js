// The page: what is drawn is made a picture, read by the model, and shown.

import { digitFromStrokes } from "./digit.js";
import { measure } from "./latency.js";
import { Pad, PEN } from "./pad.js";
import { largest, loadReader, onnxruntimeVersion } from "./reader.js";
import { ReadingView } from "./views.js";

const $ = (id) => document.getElementById(id);

const pad = new Pad($("pad"), changed);
let reader = null;
let view = null;
let busy = false;
let waiting = null; // the newest change that came while another was being read
let measured = false;

function changed(finished) {
  $("undo").disabled = !pad.history.length;
  $("clear").disabled = pad.empty;
  waiting = { finished: finished || Boolean(waiting?.finished) };
  if (!busy) requestAnimationFrame(readNewest);
}

/** Read what is on the pad, and again as long as it has changed meanwhile. */
async function readNewest() {
  if (busy || !reader) return;
  busy = true;
  try {
    while (waiting) {
      const { finished } = waiting;
      waiting = null;
      await read(finished);
    }
  } catch (error) {
    fail(`The model could not read it: ${error.message}`);
  } finally {
    busy = false;
  }
}

async function read(finished) {
  $("problem").textContent = "";
  if (pad.empty) {
    view.clear();
    $("spoken").textContent = "";
    return;
  }
  const pixels = digitFromStrokes(pad.curves, PEN, reader.rows, reader.cols);
  const logits = await reader.logitsByStep(pixels);
  const even = new Array(reader.classNames.length).fill(1 / reader.classNames.length); // before the first row
  const probabilities = [even, ...logits.map((step) => reader.probabilities(step))];
  view.set({ pixels, probabilities, settled: reader.settledAfter(logits) }, finished);
  if (!finished) return;
  const last = probabilities.at(-1);
  const best = largest(last);
  $("spoken").textContent = `${reader.classNames[best]}, ${(100 * last[best]).toFixed(1)} percent`;
  document.body.dataset.read = String(Number(document.body.dataset.read ?? 0) + 1);
  $("measure").disabled = false;
  if (!measured) {
    measured = true;
    setTimeout(showLatency, 1200); // after the sweep, so that neither disturbs the other
  }
}

async function showLatency() {
  if (!view.reading || $("measure").ariaBusy === "true") return;
  $("measure").ariaBusy = "true";
  $("measure").disabled = true;
  $("measured").textContent = "measuring";
  try {
    const found = await measure(reader, view.reading.pixels);
    const step = reader.rowsPerStep === 1 ? "one row" : `${reader.rowsPerStep} rows`;
    $("percentiles").replaceChildren(
      tableRow(`${reader.rows} rows in one call`, found.picture),
      tableRow(`${step} a call`, found.step),
    );
    $("measured").textContent =
      `${found.runs.toLocaleString("en")} runs each, batch 1, one thread, the call from JavaScript included; ` +
      `the browser's clock ticks every ${Math.round(1000 * found.tick)} µs`;
  } finally {
    $("measure").ariaBusy = "false";
    $("measure").textContent = "Measure again";
    $("measure").disabled = false;
  }
}

function tableRow(name, times) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  row.append(head, ...times.map((ms) => {
    const cell = document.createElement("td");
    cell.textContent = ms < 1 ? `${Math.round(1000 * ms)} µs` : `${ms.toFixed(2)} ms`;
    return cell;
  }));
  return row;
}

function fail(text) {
  $("problem").textContent = text;
}

function describe({ name, precision, n_bytes: bytes, n_parameters: parameters, test }) {
  const parts = [
    `Model ${name}, ${precision}: ${parameters.toLocaleString("en")} parameters, ${Math.round(bytes / 1000).toLocaleString("en")} kB`,
    test && `${((100 * test.n_right) / test.n).toFixed(2)} % of ${test.n.toLocaleString("en")} test digits`,
    `onnxruntime-web ${onnxruntimeVersion}, in this page`,
  ];
  return parts.filter(Boolean).join(" · ");
}

$("undo").addEventListener("click", () => pad.undo());
$("clear").addEventListener("click", () => pad.clear());
$("measure").addEventListener("click", showLatency);
try {
  reader = await loadReader();
  view = new ReadingView(reader);
  $("model").textContent = describe(reader.about);
  document.body.dataset.ready = "true";
  changed(true); // something may have been drawn meanwhile
} catch (error) {
  $("confidence").textContent = "the model did not load";
  fail(error.message);
}
