// What is shown of a reading: the picture and the strip row by row, the bars, the answer.

import { largest } from "./reader.js";

const SWEEP_MS = 700; // the time in which the rows run through; the network itself is far quicker
const PERCENT = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

const $ = (id) => document.getElementById(id);
const percent = (share) => `${PERCENT.format(100 * share)} %`;

export class ReadingView {
  constructor(reader) {
    this.reader = reader;
    this.reading = null; // { pixels, probabilities, settled }
    this.shown = 0; // rows shown
    this.frame = 0;
    $("rows").max = reader.rows;
    $("rows").step = reader.rowsPerStep;
    this.bars = reader.classNames.map((name) => bar(name));
    $("bars").replaceChildren(...this.bars.map(({ item }) => item));
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => this.show(this.shown));
    const observer = new ResizeObserver(() => this.show(this.shown));
    observer.observe($("saw"));
    observer.observe($("strip"));
    $("replay").addEventListener("click", () => this.play());
    $("rows").addEventListener("input", () => this.stopAt(Number($("rows").value)));
    for (const name of ["pointerdown", "pointermove"]) {
      $("strip").addEventListener(name, (event) => {
        if (this.reading && event.buttons) this.stopAt(this.rowUnder(event));
      });
    }
    this.clear();
  }

  /** Show a finished reading: all its rows at once, or one after the other. */
  set(reading, sweep) {
    this.reading = reading;
    $("replay").disabled = $("rows").disabled = false;
    if (sweep && !matchMedia("(prefers-reduced-motion: reduce)").matches) this.play();
    else this.stopAt(this.reader.rows);
    const { digit, share } = this.answer(reading.probabilities.at(-1));
    $("saw").ariaLabel = `What the network saw, ${this.reader.rows} by ${this.reader.cols} pixels; it reads ${digit}`;
    const after = reading.settled === null ? "settled only at the end" : `settled after row ${reading.settled}`;
    $("strip").ariaLabel = `Probabilities after each row: ends at ${percent(share)} for ${digit}, ${after}`;
  }

  clear() {
    cancelAnimationFrame(this.frame);
    this.reading = null;
    $("replay").disabled = $("rows").disabled = true;
    $("digit").textContent = "–";
    $("confidence").textContent = "draw a digit";
    $("settled").textContent = $("rows-read").textContent = "";
    $("saw").ariaLabel = "What the network saw: nothing yet";
    $("strip").ariaLabel = "Probabilities after each row: nothing yet";
    this.show(0);
  }

  play() {
    this.stopAt(0);
    const start = performance.now();
    const turn = (now) => {
      const steps = this.reader.rows / this.reader.rowsPerStep;
      const step = Math.min(steps, Math.floor(((now - start) / SWEEP_MS) * steps));
      this.show(Math.max(0, step) * this.reader.rowsPerStep);
      if (step < steps) this.frame = requestAnimationFrame(turn);
    };
    this.frame = requestAnimationFrame(turn);
  }

  stopAt(rows) {
    cancelAnimationFrame(this.frame);
    this.show(rows);
  }

  rowUnder(event) {
    const box = $("strip").getBoundingClientRect();
    const step = Math.ceil(((event.clientY - box.top) / box.height) * (this.reader.rows / this.reader.rowsPerStep));
    return Math.min(this.reader.rows, Math.max(0, step * this.reader.rowsPerStep));
  }

  answer(probabilities) {
    const best = largest(probabilities);
    return { digit: this.reader.classNames[best], share: probabilities[best] };
  }

  /** Everything as it stands after so many rows. */
  show(rows) {
    this.shown = rows;
    const colours = palette();
    paintPicture($("saw"), this.reading?.pixels, this.reader, rows, colours);
    paintStrip($("strip"), this.reading, this.reader, rows, colours);
    const probabilities = this.reading?.probabilities[rows / this.reader.rowsPerStep];
    const best = probabilities && rows ? largest(probabilities) : -1;
    this.bars.forEach(({ item, share }, i) => {
      const p = probabilities?.[i] ?? 0;
      item.style.setProperty("--p", p.toFixed(4));
      item.classList.toggle("first", i === best);
      item.ariaLabel = `${this.reader.classNames[i]}: ${percent(p)}`;
      share.textContent = p >= 0.005 ? Math.round(100 * p) : "";
    });
    if (!this.reading) return;
    $("rows").value = rows;
    $("rows-read").textContent = `${rows} of ${this.reader.rows} rows`;
    $("digit").textContent = best < 0 ? "–" : this.reader.classNames[best];
    $("digit").classList.toggle("word", $("digit").textContent.length > 2);
    $("confidence").replaceChildren(...this.words(probabilities, best));
    $("settled").replaceChildren(...this.verdict(rows));
  }

  words(probabilities, best) {
    if (best < 0) return ["nothing read yet"];
    const sure = document.createElement("b");
    sure.textContent = percent(probabilities[best]);
    const rest = probabilities.map((p, i) => (i === best ? -1 : p));
    const second = largest(rest);
    return rest[second] < 0.0005 ? [sure] : [sure, `or ${this.reader.classNames[second]}: ${percent(rest[second])}`];
  }

  verdict(rows) {
    const { settled } = this.reading;
    if (settled === null || rows < settled) return [];
    const mark = document.createElement("b");
    mark.textContent = `Settled after row ${settled}`;
    return [mark, `: the last ${this.reader.rows - settled} rows need not be read.`];
  }
}

function bar(name) {
  const make = (tag, className, ...children) => {
    const element = document.createElement(tag);
    element.className = className;
    element.append(...children);
    return element;
  };
  const share = make("span", "share");
  const item = make("li", "", make("div", "well", make("div", "fill"), share), make("span", "name", name));
  return { item, share };
}

function palette() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["ground", "line", "ink", "accent", "now"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** A canvas of as many pixels as it has on the screen, cleared; its 2d context and size. */
function fresh(canvas) {
  const width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
  const height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  context.globalAlpha = 1;
  context.fillStyle = palette().ground;
  context.fillRect(0, 0, width, height);
  return { context, width, height };
}

function paintPicture(canvas, pixels, { rows: nRows, cols: nCols }, read, colours) {
  const { context, width, height } = fresh(canvas);
  const y = edges(height, nRows);
  const x = edges(width, nCols);
  if (pixels) {
    context.fillStyle = colours.ink;
    for (let row = 0; row < nRows; row++) {
      const faint = row < read ? 1 : 0.25; // not yet read
      for (let col = 0; col < nCols; col++) {
        context.globalAlpha = (faint * pixels[row * nCols + col]) / 255;
        if (context.globalAlpha) context.fillRect(x[col], y[row], x[col + 1] - x[col], y[row + 1] - y[row]);
      }
    }
  }
  scanLine(context, colours, width, y, read, nRows, pixels);
}

function paintStrip(canvas, reading, { rows: nRows, rowsPerStep, classNames }, read, colours) {
  const { context, width, height } = fresh(canvas);
  const steps = nRows / rowsPerStep;
  const y = edges(height, steps);
  const x = edges(width, classNames.length);
  const gap = Math.max(1, Math.round(devicePixelRatio));
  if (reading) {
    for (let step = 1; step * rowsPerStep <= read; step++) {
      classNames.forEach((_, i) => {
        context.globalAlpha = reading.probabilities[step][i] ** 0.7; // so that one in ten can be seen
        context.fillStyle = colours.accent;
        context.fillRect(x[i] + gap, y[step - 1], x[i + 1] - x[i] - 2 * gap, y[step] - y[step - 1] - (step < steps ? gap : 0));
      });
    }
    if (reading.settled !== null && read >= reading.settled) {
      context.globalAlpha = 1;
      context.fillStyle = colours.now;
      context.fillRect(0, y[reading.settled / rowsPerStep] - gap, width, 1.5 * gap);
    }
  }
  scanLine(context, colours, width, y, read / rowsPerStep, steps, reading);
}

/** The row that is being read, across both. */
function scanLine(context, colours, width, y, at, n, reading) {
  if (!reading || at <= 0 || at >= n) return;
  context.globalAlpha = 1;
  context.fillStyle = colours.now;
  const thick = Math.max(2, 2 * Math.round(devicePixelRatio));
  context.fillRect(0, y[at] - thick / 2, width, thick);
}

/** Where n equal cells begin and end, on whole pixels. */
function edges(size, n) {
  return Array.from({ length: n + 1 }, (_, i) => Math.round((i * size) / n));
}
