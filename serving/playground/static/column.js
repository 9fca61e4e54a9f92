// One model's side of the conversation.

import { stream } from "./api.js";
import { element } from "./dom.js";
import { pieceOf } from "./piece.js";
import { Timing } from "./timing.js";

export class Column {
  #messages = [];
  #log;
  #label = element("span", { class: "label" });
  #memory = element("p", { class: "quiet memory" });

  /** side: "subnet" or "other", which is its colour. prefix: of its paths. chat: or else plain completion. */
  constructor({ name, side, prefix, chat }) {
    Object.assign(this, { name, side, prefix, chat });
    this.#log = element("div", { class: "log", role: "log", tabindex: "0", "aria-label": `Answers of ${name}` });
    const title = element("h2", {}, element("span", { class: `swatch ${side}`, "aria-hidden": "true" }), name);
    title.append(this.#label);
    this.root = element("section", { class: "column", "aria-label": name }, title, this.#memory, this.#log);
  }

  /** What its server tells of it; `variant` may be unknown. */
  describe(variant, memory) {
    this.#label.textContent = { compressed: "subnet", dense: "dense" }[variant] ?? "";
    this.#memory.textContent = memory;
  }

  clear() {
    this.#messages = [];
    this.#log.replaceChildren();
  }

  /** Ask, show the answer as it arrives, give a sentence about it. A failure is shown, not thrown. */
  async answer(text, { maxTokens, temperature, signal }) {
    const thoughts = element("p", { class: "reasoning" });
    const thinking = element("details", { class: "quiet", hidden: "" }, element("summary", {}, "Reasoning"), thoughts);
    const answer = element("p", { class: "text" });
    const stats = element("p", { class: "quiet stats" });
    const turn = element("article", { "aria-busy": "true" }, element("p", { class: "asked" }, text), thinking, answer, stats);
    this.#log.append(turn);
    const timing = new Timing();
    const show = paintedOnce(() => {
      thoughts.textContent = thought;
      thinking.hidden = !thought;
      answer.textContent = written;
      stats.textContent = [chosen, timing].filter(Boolean).join(" · ");
      this.#log.scrollTop = this.#log.scrollHeight;
    });
    let thought = "";
    let written = "";
    let chosen = "";
    const heads = (headers) => {
      const subnet = headers.get("x-lathe-subnet");
      if (subnet) chosen = `${subnet} (${headers.get("x-lathe-subnet-reason")})`;
    };
    show();
    try {
      const body = { model: this.name, max_tokens: maxTokens, temperature, stream: true, stream_options: { include_usage: true } };
      for await (const event of stream(this.#path, { ...body, ...this.#question(text) }, signal, heads)) {
        const piece = pieceOf(event.choices?.[0]);
        thought += piece.reasoning;
        written += piece.text;
        if (piece.carries) timing.piece();
        timing.counted(event.usage);
        show();
      }
      this.#remember(text, written);
      return `${this.name}: ${timing}`;
    } catch (error) {
      const stopped = error.name === "AbortError";
      const message = stopped ? "stopped" : error.message;
      turn.append(element("p", { class: stopped ? "quiet" : "error" }, message));
      return `${this.name}: ${message}`;
    } finally {
      show.now();
      turn.removeAttribute("aria-busy");
    }
  }

  get #path() {
    return `${this.prefix}v1/${this.chat ? "chat/completions" : "completions"}`;
  }

  #question(text) {
    if (!this.chat) return { prompt: text };
    return { messages: [...this.#messages, { role: "user", content: text }] };
  }

  #remember(text, answer) {
    this.#messages.push({ role: "user", content: text }, { role: "assistant", content: answer });
  }
}

/** A function that paints at most once a frame: hundreds of tokens a second are no reason for as many layouts. */
function paintedOnce(paint) {
  let frame = 0;
  const later = () => {
    frame ||= requestAnimationFrame(later.now);
  };
  later.now = () => {
    cancelAnimationFrame(frame);
    frame = 0;
    paint();
  };
  return later;
}
