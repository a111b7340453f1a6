// The drawing pad: strokes by mouse, finger or keys; each change can be taken back.

export const PEN = 0.075; // stroke width, as a share of the pad
const STEP = 1 / 28;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pad {
  /** `changed(finished)` is called while a stroke grows (false) and after each finished change (true). */
  constructor(element, changed) {
    this.element = element;
    [this.canvas, this.invite, this.pen] = ["canvas", ".invite", ".pen"].map((name) => element.querySelector(name));
    this.changed = changed;
    this.strokes = []; // each a list of [x, y], 0 to 1
    this.history = []; // the strokes before each change
    this.growing = null; // the pointer whose stroke grows
    this.at = [0.5, 0.25]; // the keyboard's pen
    this.penDown = false;
    this.held = new Set(); // arrow keys
    new ResizeObserver(() => this.paint()).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    this.listen();
  }

  get empty() { return !this.strokes.length; }

  /** The strokes as they are painted. */
  get curves() { return this.strokes.map(smooth); }

  undo() {
    if (this.history.length) this.replace(this.history.pop());
  }

  clear() {
    if (this.empty) return;
    this.history.push(this.strokes);
    this.replace([]);
  }

  replace(strokes) {
    this.penDown = false;
    this.growing = null; // a stroke that is taken back under the pointer does not grow any more
    this.strokes = strokes;
    this.finish();
  }

  begin(point) {
    this.history.push(this.strokes);
    this.strokes = [...this.strokes, [point]];
    this.paint();
  }

  extend(points) {
    this.strokes.at(-1).push(...points);
    this.paint();
    this.changed(false);
  }

  finish() {
    this.paint();
    this.changed(true);
  }

  listen() {
    const { element } = this;
    const on = (name, listener) => element.addEventListener(name, listener);
    const place = (event) => {
      const box = element.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    on("pointerdown", (event) => {
      if (event.button !== 0 || this.growing !== null) return;
      this.penDown = false;
      this.growing = event.pointerId;
      element.setPointerCapture(event.pointerId);
      this.pen.hidden = true;
      this.begin(place(event));
    });
    on("pointermove", (event) => {
      if (event.pointerId !== this.growing) return;
      const events = event.getCoalescedEvents?.() ?? [];
      this.extend((events.length ? events : [event]).map(place));
    });
    on("lostpointercapture", (event) => { // when it is lifted, or taken away
      if (event.pointerId !== this.growing) return;
      this.growing = null;
      this.finish();
    });
    on("keydown", (event) => this.key(event));
    on("keyup", (event) => this.held.delete(event.key));
    on("focus", () => element.matches(":focus-visible") && this.showPen());
    on("blur", () => {
      this.held.clear();
      if (this.penDown) this.togglePen();
      this.pen.hidden = true;
    });
  }

  key(event) {
    const undo = event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey);
    if (!undo && (event.ctrlKey || event.metaKey || event.altKey)) return;
    if (event.key in ARROWS) {
      this.held.add(event.key);
      this.move(event.shiftKey ? 4 * STEP : STEP);
    } else if (event.key === " ") {
      if (!event.repeat) this.togglePen();
    } else if (undo || event.key === "Backspace") this.undo();
    else if (event.key === "Delete") this.clear();
    else return;
    event.preventDefault();
    this.showPen();
  }

  move(step) {
    const inside = (value) => Math.min(1 - PEN / 2, Math.max(PEN / 2, value));
    for (const key of this.held) this.at = this.at.map((value, axis) => inside(value + ARROWS[key][axis] * step));
    if (this.penDown) this.extend([this.at]);
  }

  togglePen() {
    this.penDown = !this.penDown;
    if (this.penDown) this.begin(this.at);
    else this.finish();
  }

  showPen() {
    this.pen.hidden = false;
    this.pen.classList.toggle("down", this.penDown);
    [this.pen.style.left, this.pen.style.top] = this.at.map((share) => `${100 * share}%`);
  }

  paint() {
    const size = Math.round(this.element.clientWidth * devicePixelRatio);
    if (this.canvas.width !== size) this.canvas.width = this.canvas.height = size;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, size, size);
    context.strokeStyle = getComputedStyle(this.element).getPropertyValue("--ink");
    context.lineWidth = PEN * size;
    context.lineCap = context.lineJoin = "round";
    for (const points of this.curves) {
      context.beginPath();
      for (const [x, y] of [points[0], ...points]) context.lineTo(size * x, size * y); // a lone point to itself
      context.stroke();
    }
    this.invite.hidden = !this.empty;
  }
}

/** Corners rounded by quadratic curves between the middles of a stroke's pieces: pointers report few points. */
export function smooth(points) {
  const between = (a, b, share) => [a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])];
  const curve = [points[0]];
  for (let i = 1; i + 1 < points.length; i++) {
    const [start, stop] = [between(points[i - 1], points[i], 0.5), between(points[i], points[i + 1], 0.5)];
    for (const share of [0, 0.25, 0.5, 0.75, 1])
      curve.push(between(between(start, points[i], share), between(points[i], stop, share), share));
  }
  return [...curve, points.at(-1)];
}
