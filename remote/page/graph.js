// The graph as a drawing: layers from the sources on, nodes as cards, edges as curves that go round the cards between.
// Layered layout after Sugiyama et al. (1981): longest path, dummy nodes for long edges, median ordering.

const NS = "http://www.w3.org/2000/svg";
const CARD = { w: 148, h: 58 };
const GAP = { along: 54, across: 18, dummy: 10 };
const SWEEPS = 8;

const back = (edge) => edge.role === "carry" || edge.back;

export function layout(names, edges, upright) {
  const ahead = acyclic(names, edges);
  const layer = new Map(names.map((n) => [n, 0]));
  for (let i = 0; i < names.length; i++) {
    for (const e of ahead) layer.set(e.to, Math.max(layer.get(e.to), layer.get(e.from) + 1));
  }
  const rows = [];
  const put = (name, at) => (rows[at] ??= []).push(name);
  for (const name of names) put(name, layer.get(name));
  const short = []; // pieces of edges between neighbouring layers
  const ways = ahead.map((e, i) => {
    const way = [e.from];
    for (let at = layer.get(e.from) + 1; at < layer.get(e.to); at++) {
      const dummy = `~${i}.${at}`;
      put(dummy, at);
      way.push(dummy);
    }
    way.push(e.to);
    for (let k = 1; k < way.length; k++) short.push([way[k - 1], way[k]]);
    return { edge: e, way };
  });
  for (let i = 0; i < rows.length; i++) rows[i] ??= [];
  order(rows, short);
  const { place, along, across } = positions(rows, short, upright);
  return { place, ways, loops: edges.filter((e) => !ahead.includes(e)), size: upright ? [across, along] : [along, across] };
}

// The edges without those that lead back: carries, and whatever would close a cycle.
function acyclic(names, edges) {
  const out = new Map(names.map((n) => [n, []]));
  const reaches = (a, b) => {
    const seen = new Set([a]);
    const todo = [a];
    while (todo.length) for (const next of out.get(todo.pop())) if (!seen.has(next)) seen.add(next), todo.push(next);
    return seen.has(b);
  };
  return edges
    .filter((e) => out.has(e.from) && out.has(e.to))
    .sort((a, b) => (a.role === "hold") - (b.role === "hold"))
    .filter((e) => {
      if (back(e) || reaches(e.to, e.from)) return false;
      out.get(e.from).push(e.to);
      return true;
    });
}

function order(rows, short) {
  const before = new Map();
  const after = new Map();
  for (const [a, b] of short) {
    (before.get(b) ?? before.set(b, []).get(b)).push(a);
    (after.get(a) ?? after.set(a, []).get(a)).push(b);
  }
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const down = sweep % 2 === 0;
    for (let k = 1; k < rows.length; k++) {
      const i = down ? k : rows.length - 1 - k;
      const fixed = new Map(rows[down ? i - 1 : i + 1].map((n, at) => [n, at]));
      const near = down ? before : after;
      const score = new Map(rows[i].map((n, at) => {
        const places = (near.get(n) ?? []).map((m) => fixed.get(m)).filter((x) => x !== undefined).sort((a, b) => a - b);
        return [n, places.length ? (places[(places.length - 1) >> 1] + places[places.length >> 1]) / 2 : at];
      }));
      rows[i].sort((a, b) => score.get(a) - score.get(b));
    }
  }
}

function positions(rows, short, upright) {
  const thick = (name) => (name.startsWith("~") ? 0 : upright ? CARD.w : CARD.h);
  const gap = (name) => (name.startsWith("~") ? GAP.dummy : GAP.across);
  const deep = upright ? CARD.h : CARD.w;
  const centre = new Map();
  let widest = 0;
  for (const row of rows) {
    let at = 0;
    for (const name of row) {
      centre.set(name, at + thick(name) / 2);
      at += thick(name) + gap(name);
    }
    widest = Math.max(widest, at);
  }
  for (const row of rows) { // start in the middle, then let neighbours pull each other straight without changing the order
    const last = row.at(-1);
    const used = last === undefined ? 0 : centre.get(last) + thick(last) / 2;
    for (const name of row) centre.set(name, centre.get(name) + (widest - used) / 2);
  }
  for (let turn = 0; turn < 12; turn++) {
    for (const row of turn % 2 ? rows.toReversed() : rows) {
      for (let i = 0; i < row.length; i++) {
        const near = short.filter(([a, b]) => a === row[i] || b === row[i]).map(([a, b]) => centre.get(a === row[i] ? b : a));
        if (!near.length) continue;
        const want = near.reduce((a, b) => a + b, 0) / near.length;
        const room = (j) => (thick(row[i]) + thick(row[j])) / 2 + Math.max(gap(row[i]), gap(row[j]));
        const low = i > 0 ? centre.get(row[i - 1]) + room(i - 1) : -Infinity;
        const high = i < row.length - 1 ? centre.get(row[i + 1]) - room(i + 1) : Infinity;
        if (low <= high) centre.set(row[i], Math.min(high, Math.max(low, want)));
      }
    }
  }
  const least = Math.min(...[...centre].map(([n, c]) => c - thick(n) / 2));
  const most = Math.max(...[...centre].map(([n, c]) => c + thick(n) / 2));
  const place = new Map();
  rows.forEach((row, i) => {
    const along = i * (deep + GAP.along) + deep / 2;
    for (const name of row) place.set(name, upright ? [centre.get(name) - least, along] : [along, centre.get(name) - least]);
  });
  return { place, along: rows.length * (deep + GAP.along) - GAP.along, across: most - least };
}

// ---------------------------------------------------------------- drawing

export class GraphView {
  constructor(host) {
    this.host = host;
    this.cards = new Map();
    this.badges = new Map();
    this.upright = null;
    new ResizeObserver(() => this.turn()).observe(host);
  }

  show(nodes, edges) {
    this.nodes = nodes;
    this.edges = edges;
    this.upright = null;
    this.turn();
  }

  // Downwards where the room is narrow, else to the right.
  turn() {
    if (!this.nodes) return;
    const upright = this.host.clientWidth < 620;
    if (upright === this.upright) return;
    this.upright = upright;
    this.draw();
    if (this.stats) this.update(this.stats);
  }

  draw() {
    const names = Object.keys(this.nodes);
    const { place, ways, loops, size } = layout(names, this.edges, this.upright);
    const pad = { x: 14, y: 14 + (loops.length ? 22 : 0) };
    if (this.upright) pad.y = 14;
    const [w, h] = [size[0] + 2 * pad.x + (this.upright && loops.length ? 24 : 0), size[1] + pad.y + 14];
    const svg = make("svg", { viewBox: `0 0 ${w} ${h}`, width: w, height: h, role: "presentation" });
    const lines = make("g", { class: "edges" });
    const cards = make("g", { class: "cards" });
    svg.append(marker(), lines, cards);
    this.right = size[0] + pad.x;
    const at = (name) => place.get(name).map((v, i) => v + (i ? pad.y : pad.x));
    this.cards.clear();
    this.badges.clear();
    for (const { edge, way } of ways) this.edge(lines, edge, this.path(way.map(at)));
    for (const edge of loops) if (place.has(edge.from) && place.has(edge.to)) this.edge(lines, edge, this.loop(at(edge.from), at(edge.to)));
    for (const name of names) this.card(cards, name, at(name));
    this.host.replaceChildren(svg);
  }

  path(points) {
    const [dx, dy] = this.upright ? [0, 1] : [1, 0];
    const half = this.upright ? CARD.h / 2 : CARD.w / 2;
    const first = points[0].map((v, i) => v + [dx, dy][i] * half);
    const last = points.at(-1).map((v, i) => v - [dx, dy][i] * (half + 5));
    const all = [first];
    for (const p of points.slice(1, -1)) all.push(p.map((v, i) => v - [dx, dy][i] * half), p.map((v, i) => v + [dx, dy][i] * half));
    all.push(last);
    let d = `M${all[0]}`;
    for (let i = 1; i < all.length; i++) {
      const [a, b] = [all[i - 1], all[i]];
      const pull = (this.upright ? b[1] - a[1] : b[0] - a[0]) / 2;
      d += `C${a[0] + dx * pull},${a[1] + dy * pull} ${b[0] - dx * pull},${b[1] - dy * pull} ${b}`;
    }
    return { d, mid: middle(all) };
  }

  // Back to an earlier node, or to itself: round the outside.
  loop(a, b) {
    if (this.upright) {
      const x = (a === b || a[1] === b[1] ? a[0] + CARD.w / 2 : this.right) + 12; // beside everything that lies between
      const d = `M${a[0] + CARD.w / 2},${a[1]}C${x + 10},${a[1]} ${x + 10},${b[1] - 8} ${b[0] + CARD.w / 2 + 5},${b[1] - 8}`;
      return { d, mid: [x - 8, (a[1] + b[1]) / 2] };
    }
    const y = Math.min(a[1], b[1]) - CARD.h / 2 - 20;
    const [from, to] = [a[0] + CARD.w / 2 - 22, b[0] - CARD.w / 2 + 22];
    const d = `M${from},${a[1] - CARD.h / 2}C${from},${y} ${to},${y} ${to},${b[1] - CARD.h / 2 - 5}`;
    return { d, mid: [(from + to) / 2, y + 8] };
  }

  edge(host, edge, { d, mid }) {
    const soft = back(edge) || edge.role === "hold" || edge.role === "carry";
    const line = make("path", { d, class: soft ? "edge soft" : "edge", "marker-end": "url(#arrow)" });
    line.append(title(`${edge.source} → ${edge.sink} (${[edge.role, edge.policy, edge.every > 1 ? `every ${edge.every}` : ""].filter(Boolean).join(", ")})`));
    const badge = make("text", { x: mid[0], y: mid[1], class: "badge" });
    host.append(line, badge);
    this.badges.set(`${edge.source}>${edge.sink}`, { badge, line });
  }

  card(host, name, [x, y]) {
    const node = this.nodes[name];
    const g = make("g", { class: `node ${node.kind}`, transform: `translate(${x - CARD.w / 2},${y - CARD.h / 2})` });
    const box = make("rect", { width: CARD.w, height: CARD.h, rx: 8, class: "box" });
    const load = make("rect", { x: 1, y: CARD.h - 4, width: 0, height: 3, rx: 1.5, class: "load" });
    const head = make("text", { x: 12, y: 22, class: "nodename" }, cut(name, 13));
    const op = make("text", { x: 12, y: 40, class: "op" }, cut(node.op, 20));
    const ms = make("text", { x: CARD.w - 12, y: 22, class: "ms" }, "");
    const note = make("text", { x: CARD.w - 12, y: 40, class: "note" }, "");
    const told = title(`${name}: ${node.op}, lane ${node.lane}\n${node.doc?.split("\n")[0] ?? ""}`);
    g.append(told, box, load, head, op, ms, note);
    host.append(g);
    this.cards.set(name, { g, load, ms, note });
  }

  update(stats) {
    this.stats = stats;
    const period = stats.fps > 0 ? 1000 / stats.fps : 0;
    const busiest = Math.max(...Object.entries(stats.nodes).filter(([n]) => this.nodes[n]?.kind !== "source").map(([, s]) => s.ms?.p50 ?? 0));
    for (const [name, card] of this.cards) {
      const node = stats.nodes[name];
      if (!node) continue;
      const ms = node.ms?.p50 ?? 0;
      card.ms.textContent = node.count ? `${short(ms)} ms` : "";
      card.note.textContent = node.errors ? `${node.errors} failed` : "";
      const share = period && this.nodes[name].kind !== "source" ? Math.min(1, ms / period) : 0;
      card.load.setAttribute("width", (CARD.w - 2) * share);
      card.g.classList.toggle("failed", node.errors > 0);
      card.g.classList.toggle("hot", ms > 0 && ms === busiest);
      card.g.classList.toggle("idle", !node.count);
    }
    for (const edge of stats.edges ?? []) {
      const found = this.badges.get(`${edge.from}>${edge.to}`);
      if (!found) continue;
      const drops = Object.entries(edge.drops ?? {}).filter(([cause]) => cause !== "sampled");
      const lost = drops.reduce((sum, [, n]) => sum + n, 0);
      found.badge.textContent = [edge.queued ? `${edge.queued}/${edge.cap}` : "", lost ? `−${lost}` : ""].filter(Boolean).join(" ");
      found.badge.classList.toggle("lossy", lost > 0);
      found.line.classList.toggle("full", edge.cap > 0 && edge.queued >= edge.cap);
    }
  }
}

function marker() {
  const defs = make("defs", {});
  const arrow = make("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 6, markerHeight: 6, orient: "auto" });
  arrow.append(make("path", { d: "M0,0.5 7,4 0,7.5z", class: "tip" }));
  defs.append(arrow);
  return defs;
}

function make(name, attributes, text) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

const title = (text) => make("title", {}, text);
const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const middle = (points) => {
  const i = points.length >> 1;
  return [(points[i - 1][0] + points[i][0]) / 2, (points[i - 1][1] + points[i][1]) / 2 - 5];
};
export const short = (ms) => (ms >= 100 ? ms.toFixed(0) : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2));
