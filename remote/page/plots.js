// Small plots of the last two minutes: a line or two, the present value, the range. Plain canvas.

const KEPT = 240;

export class Plot {
  constructor(host, { name, unit = "", lines, floor = 0, whole = false }) {
    this.lines = lines.map((line) => ({ ...line, values: [] }));
    Object.assign(this, { name, unit, floor, whole });
    this.figure = document.createElement("figure");
    this.figure.className = "plot card";
    const caption = document.createElement("figcaption");
    const label = document.createElement("span");
    label.textContent = name;
    this.value = document.createElement("b");
    this.value.textContent = "–";
    caption.append(label, this.value);
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.figure.append(caption, this.canvas);
    host.append(this.figure);
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  add(...values) {
    this.lines.forEach((line, i) => {
      line.values.push(values[i] ?? null);
      if (line.values.length > KEPT) line.values.shift();
    });
    const now = values.map((v) => (v === null || v === undefined ? "–" : this.text(v)));
    this.value.textContent = `${now.join(" / ")}${this.unit ? ` ${this.unit}` : ""}`;
    this.canvas.setAttribute("aria-label", `${this.name}: ${this.value.textContent}`);
    this.draw();
  }

  text(value) {
    return this.whole ? String(Math.round(value)) : value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
  }

  draw() {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    if (!w || !h) return;
    const scale = globalThis.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(w * scale)) this.canvas.width = Math.round(w * scale);
    if (this.canvas.height !== Math.round(h * scale)) this.canvas.height = Math.round(h * scale);
    const pen = this.canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, w, h);
    const all = this.lines.flatMap((line) => line.values).filter((v) => v !== null);
    if (!all.length) return;
    const top = nice(Math.max(...all, this.floor + 1e-9));
    const style = getComputedStyle(document.documentElement);
    pen.strokeStyle = style.getPropertyValue("--line");
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(0, h - 0.5);
    pen.lineTo(w, h - 0.5);
    pen.stroke();
    const x = (i) => w - 1 - ((KEPT - 1 - i) * (w - 2)) / (KEPT - 1);
    const y = (v) => h - 1 - ((v - this.floor) / (top - this.floor || 1)) * (h - 6);
    for (const line of this.lines) {
      const color = style.getPropertyValue(line.color);
      const first = KEPT - line.values.length;
      pen.beginPath();
      let down = false;
      let started = null;
      line.values.forEach((v, i) => {
        if (v === null) return void (down = false);
        if (down) pen.lineTo(x(first + i), y(v));
        else pen.moveTo(x(first + i), y(v));
        started ??= first + i;
        down = true;
      });
      pen.strokeStyle = color;
      pen.lineWidth = 1.5;
      pen.lineJoin = "round";
      pen.stroke();
      if (line.fill && started !== null) {
        pen.lineTo(x(KEPT - 1), h);
        pen.lineTo(x(started), h);
        pen.closePath();
        pen.globalAlpha = 0.12;
        pen.fillStyle = color;
        pen.fill();
        pen.globalAlpha = 1;
      }
    }
    pen.fillStyle = style.getPropertyValue("--faint");
    pen.font = "10px system-ui, sans-serif";
    pen.fillText(this.text(top), 1, 9);
  }
}

// The next round number: 1, 2 or 5 times a power of ten.
export function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((k) => k * power).find((k) => k >= value) ?? value;
}
