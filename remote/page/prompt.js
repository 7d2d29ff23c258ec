// The prompt box: which node it speaks to, what should stay of the old prompt, over how many frames the new one is blended in.

import { element } from "./controls.js";

export class PromptBox {
  constructor(form, link, say) {
    this.form = form;
    this.link = link;
    this.say = say;
    const find = (id) => form.querySelector(`#p-${id}`);
    [this.text, this.node, this.keep, this.blend, this.receipt] = ["text", "node", "keep", "blend", "receipt"].map(find);
    form.onsubmit = (event) => {
      event.preventDefault();
      this.apply();
    };
    this.text.onkeydown = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.apply();
    };
    this.node.onchange = () => this.choose();
  }

  show(description) {
    this.prompts = Object.fromEntries(promptsOf(description).map((prompt) => [prompt.path, prompt]));
    const paths = Object.keys(this.prompts);
    this.form.hidden = !paths.length;
    this.node.hidden = paths.length < 2;
    this.node.replaceChildren(...paths.map((path) => element("option", { value: path }, path)));
    if (paths.length) this.choose();
  }

  choose() {
    const prompt = (this.prompt = this.prompts[this.node.value]);
    if (document.activeElement !== this.text) this.text.value = prompt.text;
    this.form.querySelector("#p-keep-line").hidden = !prompt.keeps;
    this.form.querySelector("#p-blend-line").hidden = prompt.blend === null;
    if (prompt.blend !== null) this.blend.value = prompt.blend;
  }

  hear(values) {
    for (const prompt of Object.values(this.prompts ?? {})) if (prompt.path in values) prompt.text = textOf(values[prompt.path]);
    if (this.prompt && this.prompt.path in values && document.activeElement !== this.text) this.text.value = this.prompt.text;
  }

  async apply() {
    const { path, blend, keeps } = this.prompt;
    const fields = { changes: { [path]: this.text.value } };
    const frames = this.blend.value === "" ? null : Number(this.blend.value);
    if (blend !== null && frames !== null) {
      if (keeps) fields.blend = frames;
      else fields.changes[`${path.slice(0, -"prompt".length)}blend`] = frames;
    }
    const keep = keepOf(this.keep.value);
    if (keeps && keep) fields.keep = keep;
    this.tell("sent", "sending");
    try {
      await this.link.ask("set", fields, (message) => this.landed(message));
      if (this.receipt.dataset.state === "sent") this.tell("sent", "accepted");
    } catch (error) {
      this.tell("bad", [error.message, error.fix].filter(Boolean).join("; "));
    }
  }

  landed(message) {
    if (message.kind === "failed" || message.kind === "refused") this.tell("bad", message.error?.message ?? message.kind);
    else {
      this.tell("good", `applied at frame ${message.seq}`);
      this.say(`prompt from frame ${message.seq}: ${this.text.value}`);
    }
  }

  tell(state, words) {
    this.receipt.dataset.state = state;
    this.receipt.textContent = words;
  }
}

// What takes a prompt: live texts called prompt, and written inputs of that type; those that an edge feeds do not. The node that hands
// prompts on to others comes first.
export function promptsOf({ nodes, edges }) {
  const fed = new Set(edges.map((edge) => edge.to));
  const found = [];
  for (const [name, { params = {}, inputs = {} }] of Object.entries(nodes)) {
    const written = Object.entries(inputs).filter(([, input]) => input.type === "Prompt" && !input.wired && input.value);
    for (const [port, { value }] of written) found.push({ path: `${name}.${port}`, text: textOf(value), blend: value.blend ?? 0, keeps: true });
    if (!params.prompt?.live || params.prompt.schema?.type !== "string" || fed.has(`${name}.prompt`) || written.length) continue;
    const { prompt, blend, keep } = params;
    found.push({ path: `${name}.prompt`, text: prompt.value ?? "", blend: blend?.live ? (blend.value ?? 0) : null, keeps: Boolean(keep?.live && blend?.live) });
  }
  return found.sort((a, b) => b.keeps - a.keeps);
}

const textOf = (value) => (typeof value === "string" ? value : (value?.text ?? ""));

// "hair, clothes" keeps these as the old prompt has them; "hair = red" says how. Nothing: null.
export function keepOf(words) {
  const parts = words.split(",").map((part) => part.trim()).filter(Boolean);
  if (!parts.length) return null;
  if (!parts.some((part) => part.includes("="))) return parts;
  return Object.fromEntries(parts.map((part) => part.split("=").map((side) => side.trim())).map(([name, ...value]) => [name, value.join("=")]));
}
