// The picture: H.264 through WebCodecs where the browser allows it, else JPEG; drawn as soon as it is decoded, never an older one after a newer.
// It measures what it draws: pictures a second, and the time from the camera to the canvas.

const WINDOW = 120; // pictures that the numbers are taken over

export class Picture {
  constructor(canvas, link, { codecs } = {}) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.link = link;
    this.allowed = codecs ?? (globalThis.isSecureContext && "VideoDecoder" in globalThis ? ["h264", "jpeg"] : ["jpeg"]);
    this.decoder = null;
    this.config = "";
    this.headers = new Map(); // timestamp -> header
    this.drawn = [];          // {at, age, way} of the last pictures, ms
    this.count = 0;
    this.last = null;
    this.newest = 0;          // n of the newest picture drawn
    this.faults = 0;
    this.onfirst = () => {};
    link.on("frame", (frame) => this.take(frame));
  }

  async view(of = null) {
    this.close();
    const fields = { codecs: this.allowed };
    if (of !== null) fields.of = of;
    const answer = await this.link.ask("view", fields);
    this.of = answer.of;
    this.enc = answer.enc;
    return answer;
  }

  take({ header, payload }) {
    if (header.n < this.newest - 1000 || header.n === 1) this.newest = 0; // another connection counts anew
    if (header.enc === "h264") this.h264(header, payload);
    else this.jpeg(header, payload);
  }

  // ---- H.264

  h264(header, payload) {
    const key = (header.flags & 1) === 1;
    try {
      if (key && (this.config !== header.codec || !this.decoder)) this.configure(header.codec);
      if (!this.decoder || (!key && !this.started)) return;
      this.started = true;
      this.headers.set(header.n, header);
      this.decoder.decode(new EncodedVideoChunk({ type: key ? "key" : "delta", timestamp: header.n, data: payload }));
    } catch (error) {
      this.fallBack(error);
    }
  }

  configure(codec) {
    this.close();
    this.decoder = new VideoDecoder({ output: (frame) => this.decoded(frame), error: (error) => this.fallBack(error) });
    this.decoder.configure({ codec, optimizeForLatency: true, hardwareAcceleration: "no-preference" });
    this.config = codec;
  }

  decoded(frame) {
    const header = this.headers.get(frame.timestamp);
    for (const n of this.headers.keys()) if (n <= frame.timestamp) this.headers.delete(n);
    if (header) this.draw(frame, header);
    frame.close();
  }

  // A browser that says it can and cannot gets JPEG from then on.
  fallBack(error) {
    this.faults++;
    console.warn("H.264 cannot be decoded here, going on with JPEG:", error);
    this.close();
    if (this.allowed[0] === "jpeg") return;
    this.allowed = ["jpeg"];
    this.view(this.of).catch(() => {});
  }

  close() {
    if (this.decoder && this.decoder.state !== "closed") this.decoder.close();
    this.decoder = null;
    this.config = "";
    this.started = false;
    this.headers.clear();
  }

  // ---- JPEG

  async jpeg(header, payload) {
    try {
      const bitmap = await createImageBitmap(new Blob([payload], { type: "image/jpeg" }));
      if (header.n > this.newest) this.draw(bitmap, header);
      bitmap.close();
    } catch (error) {
      console.warn("a picture that cannot be decoded", error);
      this.faults++;
      this.link.shown(header.n);
    }
  }

  // ---- drawing

  draw(source, header) {
    const [height, width] = header.shape;
    const have = source.displayWidth ?? source.width;
    const [w, h] = have >= width ? [width, height] : [have, source.displayHeight ?? source.height]; // an odd edge was repeated for the encoder
    if (this.canvas.width !== w || this.canvas.height !== h) {
      this.canvas.width = w;
      this.canvas.height = h;
      this.canvas.style.aspectRatio = `${w} / ${h}`;
    }
    this.context.drawImage(source, 0, 0);
    this.link.shown(header.n);
    const now = this.link.now;
    this.newest = header.n;
    this.last = header;
    this.drawn.push({ at: performance.now(), age: (now - header.born) / 1e6, way: (now - header.sent) / 1e6, seq: header.seq });
    if (this.drawn.length > WINDOW) this.drawn.shift();
    if (this.count++ === 0) this.onfirst(header);
  }

  // Pictures a second over the last two seconds, and the median age in ms.
  numbers() {
    const since = performance.now() - 2000;
    const recent = this.drawn.filter((d) => d.at >= since);
    if (!recent.length) return { fps: 0, age: null };
    const span = (performance.now() - recent[0].at) / 1000;
    const ages = recent.map((d) => d.age).sort((a, b) => a - b);
    return { fps: recent.length > 1 ? (recent.length - 1) / Math.max(span, 0.001) : 0, age: ages[ages.length >> 1] };
  }
}
