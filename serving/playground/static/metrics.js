// Polls /metrics of every server and draws the last two minutes.

import { getText } from "./api.js";
import { byId, element } from "./dom.js";
import { figures } from "./exposition.js";
import { Sparkline } from "./sparkline.js";
import { round } from "./timing.js";

const PERIOD_MS = 1000;
const KEPT = 120;
const MIB = 2 ** 20;

/** Change of a counter per second; per change of another counter with `by`. */
const rate = (name) => (now, before) => (now[name] - before[name]) / ((now.at - before.at) / 1000);
const mean = (name) => (now, before) => {
  const count = now[`${name}Count`] - before[`${name}Count`];
  return count > 0 ? (1000 * (now[`${name}Sum`] - before[`${name}Sum`])) / count : undefined;
};
const CARDS = [
  { title: "Tokens per second", value: rate("tokens") },
  { title: "Time to first token, ms", value: mean("ttft"), sparse: true },
  { title: "Time between tokens, ms", value: mean("gap"), sparse: true },
  { title: "Requests running", value: (now) => now.running },
  { title: "Requests waiting", value: (now) => now.waiting },
  { title: "KV cache in use, %", value: (now) => now.cache * 100 },
  { title: "Process memory, MiB", value: (now) => now.memory / MIB },
  { title: "GPU memory, MiB", value: (now) => now.gpu / MIB, optional: true },
];

export class Metrics {
  #columns;
  #cards;
  #before = new Map();

  constructor(columns) {
    this.#columns = columns;
    this.#cards = CARDS.map((card) => ({ ...card, line: new Sparkline(card.title, columns, KEPT) }));
    byId("cards").replaceChildren(...this.#cards.map(({ line }) => line.root));
    byId("legend").replaceChildren(
      ...columns.map(({ name, side }) => element("li", {}, element("span", { class: `swatch ${side}`, "aria-hidden": "true" }), name)),
    );
  }

  /** Reads every server once a second, for as long as the page is seen. */
  async run() {
    for (;;) {
      if (!document.hidden) {
        const failures = await Promise.all(this.#columns.map((column) => this.#read(column)));
        byId("metrics-state").textContent = failures.filter(Boolean).join("; ");
      }
      await new Promise((resolve) => setTimeout(resolve, PERIOD_MS));
    }
  }

  async #read(column) {
    let now;
    try {
      now = { ...figures(await getText(`${column.prefix}metrics`)), at: performance.now() };
    } catch (error) {
      return `${column.name}: ${error.message}`;
    }
    column.describe(now.variant, memory(now));
    const before = this.#before.get(column);
    this.#before.set(column, now);
    if (before) for (const card of this.#cards) this.#draw(card, column, now, before);
    return null;
  }

  #draw({ line, value, sparse, optional }, column, now, before) {
    const found = value(now, before);
    const known = Number.isFinite(found);
    if (known || !sparse) line.add(column, known ? found : null);
    if (optional) line.root.hidden = line.empty;
  }
}

/** What a model takes, in a line. */
function memory({ weights, memory: process, gpu }) {
  const parts = [
    [weights, "weights"],
    [process, "process"],
    [gpu, "GPU"],
  ];
  return parts
    .filter(([bytes]) => bytes !== undefined)
    .map(([bytes, what]) => `${what} ${round(bytes / MIB)} MiB`)
    .join(" · ");
}
