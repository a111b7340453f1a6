// The drawing pad: strokes by pointer or keyboard, or a picture; each change can be taken back.

const PEN = 0.075; // stroke width, as a share of the pad
const READ_PX = 280; // the side of the drawing as the picture preparation gets it
const STEP = 1 / 28;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pad {
  /** `changed(finished)` is called while a stroke grows (false) and after each finished change (true). */
  constructor(element, changed) {
    this.element = element;
    this.canvas = element.querySelector("canvas");
    this.invite = element.querySelector(".invite");
    this.pen = element.querySelector(".pen");
    this.changed = changed;
    this.strokes = []; // each a list of [x, y], 0 to 1
    this.picture = null; // { array, bitmap }
    this.history = [];
    this.growing = null; // the pointer whose stroke grows
    this.at = [0.5, 0.25]; // the keyboard's pen
    this.penDown = false;
    this.held = new Set();
    new ResizeObserver(() => this.paint()).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    this.listen();
  }

  get empty() { return !this.picture && !this.strokes.length; }

  /** What is to be read: { width, height, channels, data: Uint8Array }. */
  array() {
    if (this.picture) return this.picture.array;
    const context = new OffscreenCanvas(READ_PX, READ_PX).getContext("2d", { willReadFrequently: true });
    context.fillRect(0, 0, READ_PX, READ_PX);
    draw(context, this.strokes, READ_PX, "#fff");
    const rgba = context.getImageData(0, 0, READ_PX, READ_PX).data;
    const data = new Uint8Array(READ_PX * READ_PX);
    for (let i = 0; i < data.length; i++) data[i] = rgba[4 * i];
    return { width: READ_PX, height: READ_PX, channels: 1, data };
  }

  show(picture) {
    this.remember();
    this.lift();
    this.strokes = [];
    this.picture = picture;
    this.finish();
  }

  undo() {
    const before = this.history.pop();
    if (!before) return;
    this.lift();
    [this.strokes, this.picture] = before;
    this.finish();
  }

  clear() {
    if (this.empty) return;
    this.remember();
    this.lift();
    this.strokes = [];
    this.picture = null;
    this.finish();
  }

  remember() {
    this.history.push([this.strokes.slice(), this.picture]);
  }

  finish() {
    this.paint();
    this.changed(true);
  }

  begin(point) {
    this.remember();
    this.picture = null;
    this.strokes = [...this.strokes, [point]];
    this.paint();
  }

  extend(points) {
    this.strokes.at(-1).push(...points);
    this.paint();
    this.changed(false);
  }

  listen() {
    const { element } = this;
    const place = (event) => {
      const box = element.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    element.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || this.growing !== null) return;
      this.lift();
      this.growing = event.pointerId;
      element.setPointerCapture(event.pointerId);
      this.pen.hidden = true;
      this.begin(place(event));
    });
    element.addEventListener("pointermove", (event) => {
      if (event.pointerId !== this.growing) return;
      const events = event.getCoalescedEvents?.() ?? [];
      this.extend((events.length ? events : [event]).map(place));
    });
    for (const name of ["pointerup", "pointercancel"]) {
      element.addEventListener(name, (event) => {
        if (event.pointerId !== this.growing) return;
        this.growing = null;
        this.finish();
      });
    }
    element.addEventListener("keydown", (event) => this.key(event));
    element.addEventListener("keyup", (event) => this.held.delete(event.key));
    element.addEventListener("focus", () => {
      if (element.matches(":focus-visible")) this.showPen();
    });
    element.addEventListener("blur", () => {
      this.held.clear();
      if (this.penDown) {
        this.lift();
        this.finish();
      }
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
    const moved = [...this.held].reduce(([x, y], key) => [x + ARROWS[key][0] * step, y + ARROWS[key][1] * step], this.at);
    this.at = moved.map((value) => Math.min(1 - PEN / 2, Math.max(PEN / 2, value)));
    if (this.penDown) this.extend([this.at]);
  }

  togglePen() {
    if (this.penDown) {
      this.lift();
      this.finish();
    } else {
      this.penDown = true;
      this.begin(this.at);
    }
  }

  lift() {
    this.penDown = false;
    this.pen.classList.remove("down");
  }

  showPen() {
    this.pen.hidden = false;
    this.pen.classList.toggle("down", this.penDown);
    this.pen.style.left = `${100 * this.at[0]}%`;
    this.pen.style.top = `${100 * this.at[1]}%`;
  }

  paint() {
    const size = Math.round(this.element.clientWidth * devicePixelRatio);
    if (this.canvas.width !== size) this.canvas.width = this.canvas.height = size;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, size, size);
    this.invite.hidden = !this.empty;
    if (this.picture) {
      const { bitmap } = this.picture;
      const scale = size / Math.max(bitmap.width, bitmap.height);
      const [width, height] = [bitmap.width * scale, bitmap.height * scale];
      context.drawImage(bitmap, (size - width) / 2, (size - height) / 2, width, height);
    }
    draw(context, this.strokes, size, getComputedStyle(this.element).getPropertyValue("--ink"));
  }
}

function draw(context, strokes, size, colour) {
  context.strokeStyle = context.fillStyle = colour;
  context.lineWidth = PEN * size;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    const points = stroke.map(([x, y]) => [x * size, y * size]);
    context.beginPath();
    context.moveTo(...points[0]);
    for (let i = 1; i < points.length; i++) {
      const [[x0, y0], [x1, y1]] = [points[i - 1], points[i]];
      context.quadraticCurveTo(x0, y0, (x0 + x1) / 2, (y0 + y1) / 2); // through the middles: no corners
    }
    context.lineTo(...points.at(-1));
    context.stroke();
  }
}
