// The WebSocket: requests with answers, receipts that come later, frames, and a connection that comes back by itself.
// It knows what a message looks like, not what it means.

const PAUSES = [300, 700, 1500, 3000, 5000]; // ms before the next try
const MOST = 1 << 20; // bytes of one request: the server ends the connection of a longer one
const decoder = new TextDecoder();

export class Refused extends Error {
  constructor(message) {
    const error = message.error ?? {};
    const problems = message.problems ?? {};
    const first = Array.isArray(problems) ? problems[0]?.message : Object.values(problems)[0];
    super(first || error.message || "refused");
    this.fix = error.fix ?? "";
    this.problems = problems;
  }
}

export class Link extends EventTarget {
  constructor(path = "/ws") {
    super();
    this.path = path;
    this.offset = 0; // ns to add to this machine's clock to get the server's
    this.next = 1;
    this.waiting = new Map(); // id -> {resolve, reject, later}
    this.tries = 0;
    this.ended = false;
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = (this.socket = new WebSocket(`${scheme}//${location.host}${this.path}`));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.tries = 0;
      this.ended = false;
      this.heard = performance.now();
      this.tell("state", { state: "live" });
      this.tell("open", {});
      this.setClock();
    };
    socket.onmessage = ({ data }) => {
      this.heard = performance.now();
      if (typeof data === "string") this.take(JSON.parse(data));
      else this.frame(data);
    };
    socket.onclose = () => this.lost();
  }

  get live() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  // Seconds since anything came, while the connection stands: an engine that hangs keeps it open.
  get silence() {
    return this.live ? (performance.now() - this.heard) / 1000 : 0;
  }

  // Ask, and wait for the answer or the acceptance. `later` is called with what follows an acceptance: applied, done, failed.
  ask(op, fields = {}, later = null) {
    if (!this.live) return Promise.reject(new Error("not connected"));
    const id = this.next++;
    const request = JSON.stringify({ v: 1, id, op, ...fields });
    if (new TextEncoder().encode(request).length > MOST) return Promise.reject(new Error("this is too long to be sent: a request has at most 1 MiB"));
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, later });
      this.socket.send(request);
    });
  }

  shown(n) {
    if (this.live) this.socket.send(JSON.stringify({ v: 1, op: "shown", n }));
  }

  take(message) {
    const entry = this.waiting.get(message.id);
    switch (message.kind) {
      case "answer":
        this.waiting.delete(message.id);
        entry?.resolve(message);
        break;
      case "accepted":
        if (entry) entry.accepted = true;
        entry?.resolve(message);
        break;
      case "refused":
        this.waiting.delete(message.id);
        entry?.reject(new Refused(message));
        if (entry?.accepted) entry.later?.(message); // a change that turned out to be impossible after it had been accepted
        break;
      case "applied":
      case "done":
      case "failed":
        entry?.later?.(message);
        this.settle(message.id, message.kind);
        break;
      default:
        this.tell(message.kind ?? "odd", message);
    }
  }

  // Receipts of ramps go on after `applied`; the others are finished. Old ones are forgotten so that nothing grows.
  settle(id, kind) {
    if (kind !== "applied") this.waiting.delete(id);
    if (this.waiting.size > 500) this.waiting.delete(this.waiting.keys().next().value);
  }

  frame(data) {
    const size = new DataView(data).getUint32(0, true);
    const header = JSON.parse(decoder.decode(new Uint8Array(data, 4, size)));
    this.offset = Math.max(this.offset, header.sent - now()); // nothing arrives before it was sent, however roughly the clocks were compared
    this.tell("frame", { header, payload: new Uint8Array(data, 4 + size) });
  }

  // The offset of the two clocks, from the exchange with the shortest way there and back (Cristian 1989).
  async setClock() {
    let best = Infinity;
    for (let i = 0; i < 5 && this.live; i++) {
      const before = now();
      const { now: theirs } = await this.ask("clock").catch(() => ({}));
      const after = now();
      if (theirs && after - before < best) {
        best = after - before;
        this.offset = theirs - (before + after) / 2;
      }
    }
  }

  // The server's clock, in ns.
  get now() {
    return now() + this.offset;
  }

  async lost() {
    for (const { reject } of this.waiting.values()) reject(new Error("the connection was lost"));
    this.waiting.clear();
    const pause = PAUSES[Math.min(this.tries++, PAUSES.length - 1)];
    this.tell("state", { state: this.ended ? "ended" : "lost", pause });
    if (document.hidden) await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
    await new Promise((over) => setTimeout(over, pause));
    const known = await fetch("graph.json", { cache: "no-store" }).then((answer) => answer.status, () => 0);
    if (known === 401 || known === 403) {
      this.tell("state", { state: "stranger" });
      return;
    }
    if (known === 200) this.open();
    else this.lost();
  }

  tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }

  on(kind, call) {
    this.addEventListener(kind, (event) => call(event.detail));
  }
}

export const now = () => (performance.timeOrigin + performance.now()) * 1e6;
