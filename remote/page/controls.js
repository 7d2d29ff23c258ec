// Controls made from the parameters' schemas, grouped by node. Every change says what became of it, at the control itself.

const SLIDER_MS = 60; // between two changes that a slider sends
const MANY = 16; // live parameters that are shown all at once

export class Controls {
  constructor(host, link, say) {
    this.host = host;
    this.link = link;
    this.say = say;
    this.fields = new Map(); // path -> field
    this.tags = new Map(); // governed path -> its tag
  }

  show(description) {
    const governed = new Map((description.knobs ?? []).map((knob) => [knob.path, knob]));
    const groups = [];
    this.fields.clear();
    this.tags.clear();
    for (const [name, node] of Object.entries(description.nodes)) {
      if (node.hidden) continue;
      const entries = Object.entries(node.params ?? {});
      const live = entries.filter(([, p]) => p.live);
      if (!live.length && !entries.length) continue;
      groups.push(this.group(name, node, live, entries.filter(([, p]) => !p.live), governed));
    }
    // What the governor moves is what matters most; a long list opens with that alone.
    groups.sort((a, b) => b.rank - a.rank);
    const many = groups.reduce((sum, g) => sum + g.count, 0) > MANY;
    for (const [i, g] of groups.entries()) g.element.open = g.count > 0 && (!many || i === 0);
    this.host.replaceChildren(...groups.map((g) => g.element));
  }

  group(name, node, live, fixed, governed) {
    const details = element("details", { class: "card group" });
    const summary = element("summary", {});
    summary.append(element("h2", {}, name), element("span", { class: "muted op" }, node.op));
    details.append(summary);
    for (const [key, param] of live) details.append(this.row(`${name}.${key}`, key, param, governed.get(`${name}.${key}`)));
    if (fixed.length) {
      const rest = element("details", { class: "fixed" });
      const list = element("dl", {});
      rest.append(element("summary", {}, `${fixed.length} fixed at open`), list);
      for (const [key, param] of fixed) list.append(element("dt", {}, key), element("dd", {}, text(param.value)));
      details.append(rest);
    }
    const knobs = live.filter(([key, p]) => p.knob || governed.has(`${name}.${key}`)).length;
    return { element: details, count: live.length, rank: knobs * 1000 + (live.length ? 1 : 0) };
  }

  row(path, key, param, knob) {
    const row = element("div", { class: "row" });
    const id = `c-${path.replace(/\W/g, "-")}`;
    const head = element("div", { class: "rowhead" });
    const label = element("label", { for: id }, key);
    head.append(label);
    if (knob) head.append(this.governed(path, knob.held));
    if (param.fed) head.append(element("span", { class: "tag fed", title: "An edge of the graph gives this value" }, `fed by ${param.fed}`));
    const receipt = element("output", { class: "receipt", for: id });
    const field = new Field(this, path, id, param, receipt);
    if (field.beside) head.append(field.beside);
    row.append(head);
    if (field.element) row.append(field.element);
    row.append(receipt);
    this.fields.set(path, field);
    return row;
  }

  // The governor moves this one, until somebody sets it: then it is held, and a press gives it back.
  governed(path, held) {
    const tag = element("button", { type: "button", class: "tag governed" });
    tag.onclick = () => {
      const fail = (error) => this.say(`release ${path}: ${error.message}`, true);
      this.link.ask("release", { paths: [path] }, () => this.say(`${path} is the governor's again`)).catch(fail);
    };
    this.tags.set(path, tag);
    showHeld(tag, held);
    return tag;
  }

  // Which knobs are held now.
  held(paths) {
    for (const [path, tag] of this.tags) showHeld(tag, paths.includes(path));
  }

  // Values as they are now: after changes of others, of the governor, of edges.
  update(values) {
    for (const [path, value] of Object.entries(values)) this.fields.get(path)?.hear(value);
  }
}

class Field {
  constructor(controls, path, id, param, receipt) {
    Object.assign(this, { controls, path, param, receipt });
    this.schema = plainSchema(param.schema ?? {});
    this.value = param.value;
    this.flying = false; // a change is on its way and not accepted yet
    this.next = undefined;
    this.make(id);
    if (param.fed && this.schema.type === "string") this.element = null; // what comes through an edge is not this text
    if (param.fed) for (const input of this.inputs) input.disabled = true;
    this.render(param.value);
  }

  make(id) {
    const { type, choices, minimum, maximum } = this.schema;
    const send = (value) => this.send(value);
    if (type === "boolean") {
      const box = element("input", { type: "checkbox", id, role: "switch", class: "toggle" });
      box.onchange = () => send(box.checked);
      this.beside = box;
      this.become(null, [box], (v) => (box.checked = v === true));
    } else if (choices) {
      const select = element("select", { id });
      choices.forEach((choice, i) => select.append(element("option", { value: i }, text(choice))));
      select.onchange = () => send(choices[select.value]);
      this.become(select, [select], (v) => (select.value = choices.findIndex((c) => same(c, v))));
    } else if ((type === "number" || type === "integer") && minimum !== undefined && maximum !== undefined) {
      this.slider(id, type === "integer", minimum, maximum);
    } else if (type === "number" || type === "integer") {
      const input = element("input", { type: "number", id, step: type === "integer" ? 1 : "any", min: minimum, max: maximum });
      input.onchange = () => this.typed(input);
      input.className = "beside";
      this.beside = input;
      this.become(null, [input], (v) => (input.value = v ?? ""));
      if (this.schema.nullable) input.placeholder = "auto";
    } else if (type === "string") {
      const area = element("textarea", { id, rows: 1, spellcheck: "false" });
      area.onchange = () => send(area.value === "" && this.schema.nullable ? null : area.value);
      area.onkeydown = (event) => {
        if (event.key === "Enter" && !event.shiftKey) event.preventDefault(), area.blur();
      };
      area.oninput = () => grow(area);
      this.become(area, [area], (v) => ((area.value = v ?? ""), requestAnimationFrame(() => grow(area))));
    } else {
      const input = element("input", { type: "text", id, class: "code", spellcheck: "false" });
      input.onchange = () => {
        try {
          send(input.value.trim() === "" ? null : JSON.parse(input.value));
        } catch {
          this.tell("bad", "this is no JSON: write lists as [1, 2], tables as {\"name\": \"value\"}, text in double quotes");
        }
      };
      this.become(input, [input], (v) => (input.value = v === null || v === undefined ? "" : JSON.stringify(v)));
      if (this.schema.nullable) input.placeholder = "none";
    }
  }

  slider(id, whole, minimum, maximum) {
    const step = whole ? 1 : stepOf(minimum, maximum);
    const range = element("input", { type: "range", id, min: minimum, max: maximum, step });
    const number = element("input", { type: "number", class: "beside", min: minimum, max: maximum, step: whole ? 1 : "any", "aria-label": `${this.path}, exact` });
    if (this.schema.nullable) number.placeholder = "auto";
    const fill = () => range.style.setProperty("--at", `${(100 * (range.value - minimum)) / (maximum - minimum || 1)}%`);
    range.oninput = () => {
      number.value = range.value;
      fill();
      this.soon(Number(range.value));
    };
    number.onchange = () => this.typed(number);
    this.beside = number;
    this.become(range, [range, number], (v) => {
      range.value = v ?? minimum;
      number.value = v === null || v === undefined ? "" : whole ? v : Number(Number(v).toFixed(4));
      fill();
    });
  }

  // A number field: empty is "auto" where there is such a thing, and else no change (browsers give out "" for what is no number, too).
  typed(input) {
    if (input.value !== "" || (this.schema.nullable && !input.validity.badInput)) return void this.send(input.value === "" ? null : Number(input.value));
    const { minimum: low, maximum: high, type } = this.schema;
    const span = low !== undefined && high !== undefined ? ` from ${low} to ${high}` : "";
    this.render(this.value);
    this.tell("bad", `write a ${type === "integer" ? "whole number" : "number"}${span}`);
  }

  become(element, inputs, render) {
    this.element = element;
    this.inputs = inputs;
    this.render = render;
  }

  hear(value) {
    this.value = value;
    if (!this.flying && !this.inputs.includes(document.activeElement)) this.render(value);
    else if (!this.flying && document.activeElement?.type === "range" && !this.timer) this.render(value);
  }

  // A slider being dragged: the newest value, at most so often.
  soon(value) {
    this.later = value;
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.send(this.later);
    }, SLIDER_MS);
  }

  // One change at a time: what is wanted meanwhile is sent afterwards, and only the newest of it.
  async send(value) {
    if (this.flying) {
      this.next = { value };
      return;
    }
    this.flying = true;
    this.tell("sent", "sending");
    try {
      await this.controls.link.ask("set", { changes: { [this.path]: value } }, (message) => this.landed(message, value));
      this.value = value;
      this.tell("sent", "accepted");
    } catch (error) {
      this.tell("bad", [error.message, error.fix].filter(Boolean).join("; "));
      this.controls.say(`${this.path}: ${error.message}`, true);
      if (!this.next) this.render(this.value);
    }
    this.flying = false;
    const next = this.next;
    this.next = undefined;
    if (next && !same(next.value, value)) this.send(next.value);
  }

  landed(message, value) {
    if (message.kind === "applied" || message.kind === "done") {
      this.tell("good", `applied at frame ${message.seq}`);
      this.controls.say(`${this.path} = ${text(value)} from frame ${message.seq}`);
    } else this.tell("bad", message.error?.message ?? message.kind);
  }

  tell(state, words) {
    this.receipt.dataset.state = state;
    this.receipt.textContent = words;
    clearTimeout(this.fading);
    if (state === "good") this.fading = setTimeout(() => (this.receipt.dataset.state = "old"), 4000);
  }
}

// What a control needs of a JSON schema: type, bounds, choices, and whether null is allowed.
export function plainSchema(schema) {
  const of = (s) => (s.$ref ? (schema.$defs?.[s.$ref.split("/").at(-1)] ?? s) : s);
  const parts = (schema.anyOf ?? schema.oneOf ?? [schema]).map(of);
  const rest = parts.filter((s) => s.type !== "null");
  const nullable = rest.length < parts.length;
  const only = rest.length === 1 ? rest[0] : {};
  const choices = only.enum ?? (only.const !== undefined ? [only.const] : undefined);
  return {
    type: only.type,
    minimum: only.minimum ?? only.exclusiveMinimum,
    maximum: only.maximum ?? only.exclusiveMaximum,
    choices: choices && nullable ? [null, ...choices] : choices,
    nullable,
  };
}

// A step that gives a slider about two hundred stops on a round grid.
export function stepOf(minimum, maximum) {
  const raw = (maximum - minimum) / 200;
  const power = 10 ** Math.floor(Math.log10(raw));
  return Number(([1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw * 0.999) ?? power).toPrecision(6));
}

function showHeld(tag, held) {
  tag.dataset.held = held === true;
  tag.disabled = !held;
  tag.textContent = held ? "held · release" : "governed";
  tag.title = held ? "You set it, so the governor leaves it alone; press to give it back" : "The governor moves this one within its bounds, until you set it";
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const text = (value) => (value === null || value === undefined ? "none" : typeof value === "string" ? value || "(empty)" : JSON.stringify(value));
const grow = (area) => {
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight + 2, 160)}px`;
};

export function element(name, attributes = {}, words) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === false || value === null) continue;
    made.setAttribute(key, value === true ? "" : value);
  }
  if (words !== undefined) made.textContent = words;
  return made;
}
