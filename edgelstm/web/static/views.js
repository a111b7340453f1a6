// What is shown of a reading: the picture and the strip row by row, the bars, the answer.

import { largest } from "./engine.js";

const SWEEP_MS = 700; // the time in which the rows run through; the network itself is far quicker

export const $ = (id) => document.getElementById(id);
export const percent = (share) => `${(100 * share).toFixed(1)} %`;

export function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export class ReadingView {
  constructor(model) {
    this.model = model;
    this.frame = 0; // of the sweep
    Object.assign($("rows"), { max: model.rows, step: model.rowsPerStep });
    this.bars = model.classNames.map((name) => {
      const share = make("span", { className: "share" });
      const well = make("div", { className: "well" }, make("div", { className: "fill" }), share);
      return { share, item: make("li", {}, well, make("span", { className: "name" }, name)) };
    });
    $("bars").replaceChildren(...this.bars.map(({ item }) => item));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show(this.shown));
    const observer = new ResizeObserver(() => this.show(this.shown));
    for (const id of ["saw", "strip"]) observer.observe($(id));
    $("replay").addEventListener("click", () => this.play());
    $("rows").addEventListener("input", () => this.stopAt(Number($("rows").value)));
    for (const name of ["pointerdown", "pointermove"])
      $("strip").addEventListener(name, (event) => this.reading && event.buttons && this.stopUnder(event));
    this.clear();
  }

  /** Show a finished reading: all its rows at once, or one after the other. */
  set(reading, sweep) {
    this.reading = reading;
    $("replay").disabled = $("rows").disabled = false;
    if (sweep && !matchMedia("(prefers-reduced-motion: reduce)").matches) this.play();
    else this.stopAt(this.model.rows);
    const last = reading.probabilities.at(-1);
    const answer = this.model.classNames[largest(last)];
    const after = reading.settled === null ? "settled only at the end" : `settled after row ${reading.settled}`;
    this.label(`it reads ${answer}`, `ends at ${percent(Math.max(...last))} for ${answer}, ${after}`);
  }

  label(saw, strip) {
    $("saw").ariaLabel = `What the network saw, ${this.model.rows} by ${this.model.cols} pixels: ${saw}`;
    $("strip").ariaLabel = `Probabilities after each row: ${strip}`;
  }

  clear() {
    this.reading = null;
    $("replay").disabled = $("rows").disabled = true;
    $("digit").textContent = "–";
    $("confidence").textContent = "draw a digit";
    $("settled").textContent = $("rows-read").textContent = "";
    this.label("nothing yet", "nothing yet");
    this.stopAt(0);
  }

  play() {
    this.stopAt(0);
    const start = performance.now();
    const turn = (now) => {
      this.show(this.rowsAt((now - start) / SWEEP_MS));
      if (this.shown < this.model.rows) this.frame = requestAnimationFrame(turn);
    };
    this.frame = requestAnimationFrame(turn);
  }

  stopAt(rows) {
    cancelAnimationFrame(this.frame);
    this.show(rows);
  }

  stopUnder(event) {
    const box = $("strip").getBoundingClientRect();
    this.stopAt(this.rowsAt((event.clientY - box.top) / box.height));
  }

  /** Rows of so many of all, in whole steps. */
  rowsAt(share) {
    const { rows, rowsPerStep } = this.model;
    return Math.min(rows, Math.max(0, Math.ceil((share * rows) / rowsPerStep) * rowsPerStep));
  }

  /** Everything as it stands after so many rows. */
  show(rows) {
    this.shown = rows;
    this.paint(rows / this.model.rowsPerStep);
    const { classNames } = this.model;
    const probabilities = this.reading?.probabilities[rows / this.model.rowsPerStep];
    const best = probabilities && rows ? largest(probabilities) : -1;
    this.bars.forEach(({ item, share }, i) => {
      const p = probabilities?.[i] ?? 0;
      item.style.setProperty("--p", p.toFixed(4));
      item.classList.toggle("first", i === best);
      item.ariaLabel = `${classNames[i]}: ${percent(p)}`;
      share.textContent = p >= 0.005 ? Math.round(100 * p) : "";
    });
    if (!this.reading) return;
    $("rows").value = rows;
    $("rows-read").textContent = `${rows} of ${this.model.rows} rows`;
    $("digit").textContent = best < 0 ? "–" : classNames[best];
    $("digit").classList.toggle("word", $("digit").textContent.length > 2);
    const rest = probabilities.map((p, i) => (i === best ? -1 : p));
    const second = largest(rest);
    $("confidence").replaceChildren(best < 0 ? "nothing read yet" : make("b", {}, percent(probabilities[best])),
      best < 0 || rest[second] < 0.0005 ? "" : `or ${classNames[second]}: ${percent(rest[second])}`);
    const { settled } = this.reading;
    $("settled").replaceChildren(...(settled === null || rows < settled ? [] : [
      make("b", {}, `Settled after row ${settled}`), `: the last ${this.model.rows - settled} rows need not be read.`,
    ]));
  }

  /** The picture, what is not yet read faintly, and beside it the strip, a row a step that has been read. */
  paint(step) {
    const { rows, cols, rowsPerStep, classNames } = this.model;
    const { picture, probabilities, settled } = this.reading ?? {};
    const steps = rows / rowsPerStep;
    const seen = (row, col) => ((row < step * rowsPerStep ? 1 : 0.25) * picture[row * cols + col]) / 255;
    const sure = (row, i) => (row < step ? probabilities[row + 1][i] ** 0.7 : 0); // ** 0.7: one in ten can be seen
    const sawLine = paintGrid($("saw"), rows, cols, 0, "ink", picture && seen);
    const stripLine = paintGrid($("strip"), steps, classNames.length, 1, "accent", probabilities && sure);
    if (settled && step * rowsPerStep >= settled) stripLine(settled / rowsPerStep, 1.5);
    if (!picture || step <= 0 || step >= steps) return;
    sawLine(step * rowsPerStep, 2); // the row that is being read, across both
    stripLine(step, 2);
  }
}

/**
 * Cells of a colour, each as strong as `strength(row, column)` says, on a canvas of as many pixels as it has on the
 * screen. Comes back: a function that paints a line above a row.
 */
function paintGrid(canvas, nRows, nCols, gap, colour, strength) {
  const pixels = (size) => Math.max(1, Math.round(size * devicePixelRatio));
  const [width, height] = [pixels(canvas.clientWidth), pixels(canvas.clientHeight)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const take = (name) => { context.fillStyle = getComputedStyle(canvas).getPropertyValue(`--${name}`); };
  const [x, y] = [edges(width, nCols), edges(height, nRows)];
  const space = gap && pixels(gap);
  take("ground");
  context.fillRect(0, 0, width, height);
  take(colour);
  for (let row = 0; strength && row < nRows; row++) {
    const cell = y[row + 1] - y[row] - (row + 1 < nRows ? space : 0);
    for (let col = 0; col < nCols; col++) {
      context.globalAlpha = strength(row, col);
      context.fillRect(x[col] + space, y[row], x[col + 1] - x[col] - 2 * space, cell);
    }
  }
  context.globalAlpha = 1;
  take("now");
  return (row, thick) => context.fillRect(0, y[row] - pixels(thick) / 2, width, pixels(thick));
}

/** Where n equal cells begin and end, on whole pixels. */
const edges = (size, n) => Array.from({ length: n + 1 }, (_, i) => Math.round((i * size) / n));
