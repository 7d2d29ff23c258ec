// The page: wires the connection to the picture, the graph, the controls, the plots and the log.

import { Controls, element } from "./controls.js";
import { GraphView } from "./graph.js";
import { Link } from "./link.js";
import { Log } from "./log.js";
import { Picture } from "./picture.js";
import { Plot } from "./plots.js";
import { PromptBox } from "./prompt.js";

const find = (id) => document.getElementById(id);
const link = new Link();
const log = new Log(find("log"), find("l-errors"));
const asked = new URLSearchParams(location.search);
const picture = new Picture(find("picture"), link, { codecs: asked.get("codecs")?.split(",") });
const graph = new GraphView(find("graph"));
const controls = new Controls(find("groups"), link, say);
const prompt = new PromptBox(find("prompt"), link, say);
const plots = {
  fps: new Plot(find("plots"), { name: "frames a second", lines: [{ color: "--accent", fill: true }] }),
  age: new Plot(find("plots"), { name: "age p50 / p95", unit: "ms", lines: [{ color: "--accent", fill: true }, { color: "--second" }] }),
  memory: new Plot(find("plots"), { name: "memory", unit: "MB", whole: true, lines: [{ color: "--second", fill: true }, { color: "--accent" }] }),
  drops: new Plot(find("plots"), { name: "drops a second", lines: [{ color: "--warn", fill: true }] }),
};
const WORDS = {
  loading: "loading", online: "online", degraded_input: "input degraded", degraded_inference: "inference degraded", error: "error", stopped: "stopped",
  paused: "paused", unknown: "not connected",
};
const SILENT_S = 3;
let paused = false;
let before = null;
let run = "";
let stopping = null;
let state = "loading";

function say(words, bad = false) {
  find("said").textContent = words;
  find("said").classList.toggle("bad", bad);
  log.add(words, bad);
}

// ---------------------------------------------------------------- the run

async function begin() {
  const hello = await link.ask("hello", { client: "preview page" });
  if (run && run !== hello.run) log.add("the engine was restarted");
  run = hello.run;
  find("name").textContent = hello.graph;
  document.title = `${hello.graph} · Afterimage`;
  setState(hello.state);
  await describe();
  await link.ask("watch", { every_ms: 500, what: ["stats", "params", "events"] });
  await view(find("outputs").value || null);
  showRecording(await link.ask("record"));
}

let description = null;

async function describe() {
  description = await link.ask("describe");
  const nodes = Object.fromEntries(Object.entries(description.nodes).filter(([, node]) => !own(node)));
  const edges = description.edges.map((edge) => ({ ...edge, source: edge.from, sink: edge.to, from: node(edge.from), to: node(edge.to) }));
  const fed = new Map(description.edges.map((edge) => [edge.to, edge.from]));
  for (const [name, { params }] of Object.entries(nodes)) {
    for (const [key, param] of Object.entries(params ?? {})) param.fed ??= fed.get(`${name}.${key}`);
  }
  graph.show(nodes, through(edges.filter((edge) => edge.to in nodes || !(edge.to in description.nodes)), nodes));
  controls.show({ ...description, nodes });
  prompt.show({ ...description, nodes });
  const count = Object.keys(nodes).length;
  find("g-note").textContent = `${count} nodes on ${new Set(Object.values(nodes).map((n) => n.lane)).size} lanes`;
}

const node = (path) => path.slice(0, path.lastIndexOf(".")); // conversions have dots in their names
const own = (node) => node.op === "sink.tap" && String(node.params?.box?.value ?? "").startsWith("preview");

// Edges through conversions, which the compiler put in, are drawn from node to node.
function through(edges, nodes) {
  const into = new Map(edges.filter((edge) => !(edge.to in nodes)).map((edge) => [edge.to, edge]));
  return edges
    .filter((edge) => edge.to in nodes)
    .map((edge) => (edge.from in nodes || !into.has(edge.from) ? edge : { ...edge, from: into.get(edge.from).from }))
    .filter((edge) => edge.from in nodes);
}

function setState(now) {
  state = now;
  showState();
}

// What is known of the run. Without a connection that is nothing, unless it had ended before.
function showState() {
  const over = state === "stopped" || state === "error";
  const shown = !link.live && !over ? "unknown" : paused && !over ? "paused" : state;
  find("state").dataset.state = shown;
  find("state").textContent = WORDS[shown] ?? shown;
}

async function view(of) {
  try {
    const answer = await picture.view(of);
    const list = find("outputs");
    list.replaceChildren(...answer.outputs.map((output) => element("option", { value: output.of }, output.of)));
    list.value = answer.of;
    find("o-enc").textContent = answer.enc === "h264" ? "H.264" : "JPEG";
  } catch (error) {
    if (of !== null && of !== undefined) return view(null); // an output that is gone: back to the main one
    const blank = find("blank");
    if (blank) blank.textContent = error.message;
  }
}

link.on("stats", (stats) => {
  setState(stats.state);
  const drops = Object.values(stats.frames.drops ?? {}).reduce((a, b) => a + b, 0);
  const at = stats.seconds; // the run's own clock: messages may arrive in heaps
  const rate = before && at > before.at ? Math.max(0, drops - before.drops) / (at - before.at) : 0;
  before = { drops, at };
  const age = stats.age_ms ?? {};
  find("v-fps").textContent = stats.fps.toFixed(1);
  find("v-age").textContent = stats.frames.out ? `${Math.round(age.p95)} ms` : "–";
  find("v-frames").textContent = stats.frames.out;
  find("v-drops").textContent = drops;
  find("v-drops").classList.toggle("warn", rate > 0);
  plots.fps.add(stats.fps);
  plots.age.add(stats.frames.out ? age.p50 : null, stats.frames.out ? age.p95 : null);
  plots.drops.add(rate);
  const memory = stats.memory ?? {};
  const device = memory.device;
  plots.memory.add(...[memory.rss, device && device.total - device.free].filter(Boolean).map((bytes) => bytes / 2 ** 20));
  graph.update(stats);
  if ("paused" in stats) setPaused(stats.paused);
  if (stats.held) controls.held(stats.held);
});
link.on("params", ({ values }) => {
  controls.update(values);
  prompt.hear(values);
});
link.on("event", ({ event }) => {
  log.event(event);
  if (event.what === "pause") setPaused(true);
  if (event.what === "resume") setPaused(false);
  if (event.what === "recording") link.ask("record").then(showRecording, () => {});
  if (event.what === "reload") describe().then(() => view(picture.of)).catch(() => {});
});
link.on("open", () => begin().catch((error) => say(error.message, true)));
link.on("state", ({ state: now, pause }) => {
  const over = state === "stopped" || state === "error";
  const again = pause < 1000 ? "now" : `in ${Math.round(pause / 1000)} s`;
  connection(now, {
    live: "connected", ended: "the run has ended", stranger: "the run has ended, or has a new token; open the address that it printed",
    lost: over ? `the run has ended, looking for a new one ${again}` : `connection lost, trying again ${again}`,
  }[now]);
  document.body.classList.toggle("away", now !== "live");
  if (now === "live") return void showState();
  showRecording({ recording: false });
  if (now === "ended" || now === "stranger") state = "stopped";
  showState();
});

function connection(state, words) {
  const place = find("link");
  place.dataset.state = state;
  if (place.textContent !== words) place.textContent = words; // it is read out when it changes
}

// Numbers come twice a second. Where nothing comes any more, what is shown is old.
function listen() {
  if (!link.live) return;
  const silent = link.silence > SILENT_S;
  if (silent) connection("silent", `no answer for ${Math.floor(link.silence)} s`);
  else if (find("link").dataset.state === "silent") connection("live", "connected");
  document.body.classList.toggle("away", silent);
}

// ---------------------------------------------------------------- buttons

async function act(op, fields, words, landed = () => {}) {
  try {
    await link.ask(op, fields, (message) => {
      if (message.kind === "applied") landed();
      if (message.kind === "failed" || message.kind === "refused") say(`${op}: ${message.error?.message ?? message.kind}`, true);
      else if (words) say(message.seq === null || message.seq === undefined ? words : `${words} at frame ${message.seq}`);
    });
  } catch (error) {
    say(`${op}: ${error.message}`, true);
  }
}

function setPaused(now) {
  paused = now;
  find("pause").textContent = now ? "Resume" : "Pause";
  find("pause").setAttribute("aria-pressed", now);
  showState();
}

find("pause").onclick = () => {
  const on = !paused;
  act(on ? "pause" : "resume", {}, on ? "paused" : "resumed", () => setPaused(on));
};
find("reset").onclick = () => act("reset", { reason: "asked for in the preview" }, "a new epoch");
find("outputs").onchange = (event) => view(event.target.value);
find("full").onclick = () => (document.fullscreenElement ? document.exitFullscreen() : find("screen").requestFullscreen());
find("snapshot").onclick = () => {
  const name = `${find("name").textContent}-${picture.last?.seq ?? 0}.png`;
  const save = element("a", { href: `snapshot.png?of=${encodeURIComponent(picture.of ?? "")}`, download: name });
  save.click();
  say(`saved ${name}`);
};
find("record").onclick = async (event) => {
  const button = event.currentTarget;
  button.disabled = true;
  try {
    const on = button.getAttribute("aria-pressed") !== "true";
    const answer = await link.ask("record", { on, ...(on && picture.of ? { of: picture.of } : {}) });
    showRecording(answer);
    say(on ? `recording to ${answer.path}` : `recorded ${answer.frames} frames to ${answer.path}`);
  } catch (error) {
    say(`record: ${error.message}`, true);
  }
  button.disabled = false;
};
find("stop").onclick = () => {
  if (!stopping) { // a run is not ended by one slip: the second press means it
    find("stop").textContent = "Really stop?";
    stopping = setTimeout(() => {
      stopping = null;
      find("stop").textContent = "Stop";
    }, 3000);
    return;
  }
  clearTimeout(stopping);
  find("stop").textContent = "Stopping";
  link.ended = true;
  act("stop", { drain: true }, "stopped");
};

let recording = null;

function showRecording(answer) {
  recording = answer.recording ? { since: performance.now() - 1000 * answer.seconds } : null;
  find("record").setAttribute("aria-pressed", answer.recording);
  find("record").lastChild.textContent = answer.recording ? "Recording" : "Record";
  find("o-rec").hidden = !answer.recording;
  if (answer.fault) say(`recording: ${answer.fault}`, true);
}

addEventListener("keydown", (event) => {
  if (event.target.closest("input, textarea, select, button, summary, a") || event.ctrlKey || event.metaKey || event.altKey) return;
  const button = { " ": "pause", f: "full", s: "snapshot" }[event.key];
  if (button) event.preventDefault(), find(button).click();
});

const head = document.querySelector(".top"); // what sticks below it has to know how high it is: it wraps on a narrow screen
new ResizeObserver(() => document.documentElement.style.setProperty("--top", `${head.offsetHeight}px`)).observe(head);

picture.onfirst = () => find("blank")?.remove();
setInterval(() => {
  listen();
  const { fps, age } = picture.numbers();
  find("o-fps").textContent = `${fps.toFixed(fps < 10 ? 1 : 0)} fps`;
  find("o-age").textContent = age === null ? "– ms" : `${Math.round(age)} ms`;
  find("screen").classList.toggle("still", fps === 0 && picture.count > 0);
  if (recording) {
    const seconds = Math.floor((performance.now() - recording.since) / 1000);
    find("o-rec-time").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  }
}, 250);

Object.assign(globalThis, { afterimage: { link, picture, controls } }); // for the browser's console, and for whoever measures
link.open();
