// What happened, newest first. Errors stand out and can be shown alone.

import { element } from "./controls.js";

const KEPT = 200;
const BAD = /error|fault|fail|refused|stall|memory/;

export class Log {
  constructor(list, filter) {
    this.list = list;
    filter.onchange = () => list.classList.toggle("only", filter.checked);
  }

  // An event of the run: what, node, seq, and its facts.
  event(event) {
    const { what, node, seq, at, ...facts } = event;
    if (["set", "pause", "resume"].includes(what) && facts.by === "control") return; // the page says it itself, with the frame
    const words = Object.entries(facts).filter(([, v]) => ![null, "", "{}", "[]"].includes(typeof v === "object" ? JSON.stringify(v) : v)).map(([k, v]) => `${k} ${typeof v === "object" ? JSON.stringify(v) : v}`);
    this.add(words.join(", "), BAD.test(what) && !(what === "memory" && !facts.rung), seq >= 0 ? `frame ${seq}` : "", [what, node].filter(Boolean).join(" · "));
  }

  add(words, bad = false, where = "", head = "") {
    const line = element("li", { class: bad ? "bad" : "" });
    const now = new Date();
    line.append(element("time", { datetime: now.toISOString() }, now.toTimeString().slice(0, 8)), element("span", {}, words));
    if (head) line.querySelector("span").prepend(element("b", {}, head), " ");
    if (where) line.append(element("i", {}, where));
    this.list.prepend(line);
    while (this.list.children.length > KEPT) this.list.lastChild.remove();
  }
}
