// The page: what is drawn or dropped is prepared, read by the model, and shown.

import { pictureFromFile } from "./files.js";
import { measure } from "./latency.js";
import { Pad } from "./pad.js";
import { digitFromArray } from "./picture/digit.js";
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
  if (finished) say("");
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
    say(`The model could not read it: ${error.message}`, true);
  } finally {
    busy = false;
  }
}

async function read(finished) {
  if (pad.empty) return nothing("draw a digit", "");
  const { pixels, note, empty } = digitFromArray(pad.array(), reader.rows, reader.cols);
  if (empty) return nothing("no ink found", "no ink found");
  const logits = await reader.logitsByStep(pixels);
  const even = new Array(reader.classNames.length).fill(1 / reader.classNames.length); // before the first row
  const probabilities = [even, ...logits.map((step) => reader.probabilities(step))];
  view.set({ pixels, probabilities, settled: reader.settledAfter(logits), note }, finished);
  if (!finished) return;
  const last = probabilities.at(-1);
  const best = largest(last);
  $("spoken").textContent = `${reader.classNames[best]}, ${(100 * last[best]).toFixed(1)} percent${note ? `; ${note}` : ""}`;
  document.body.dataset.read = String(Number(document.body.dataset.read ?? 0) + 1);
  $("measure").disabled = false;
  if (!measured) {
    measured = true;
    setTimeout(showLatency, 1200); // after the sweep, so that neither disturbs the other
  }
}

function nothing(text, spoken) {
  view.clear(text);
  $("spoken").textContent = spoken;
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

async function readFile(file) {
  say(`reading ${file.name || "the picture"}`);
  try {
    pad.show(await pictureFromFile(file));
  } catch (error) {
    say(error.message, true);
  }
}

function say(text, bad = false) {
  $("message").textContent = text;
  $("message").classList.toggle("bad", bad);
}

function listen() {
  $("undo").addEventListener("click", () => pad.undo());
  $("clear").addEventListener("click", () => pad.clear());
  $("measure").addEventListener("click", showLatency);
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    $("file").value = ""; // the same file can be chosen again
    if (file) readFile(file);
  });
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (!file) return;
    event.preventDefault();
    readFile(file);
  });
  addEventListener("dragover", (event) => {
    event.preventDefault(); // the whole page takes drops: a miss must not open the file instead
    pad.element.classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) pad.element.classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    pad.element.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) readFile(file);
    else say("That was no file; drop a picture.", true);
  });
}

function describe({ name, precision, n_bytes: bytes, n_parameters: parameters, test }) {
  const parts = [
    `Model ${name}, ${precision}: ${parameters.toLocaleString("en")} parameters, ${Math.round(bytes / 1000).toLocaleString("en")} kB`,
    test && `${((100 * test.n_right) / test.n).toFixed(2)} % of ${test.n.toLocaleString("en")} test digits`,
    `onnxruntime-web ${onnxruntimeVersion}, in this page`,
  ];
  return parts.filter(Boolean).join(" · ");
}

listen();
try {
  reader = await loadReader();
  view = new ReadingView(reader);
  $("model").textContent = describe(reader.about);
  document.body.dataset.ready = "true";
  changed(true); // something may have been drawn meanwhile
} catch (error) {
  $("confidence").textContent = "the model did not load";
  say(`The model did not load: ${error.message}`, true);
}
