// A figure's last values as lines, one for each server, with the newest in words.

import { element, svg } from "./dom.js";
import { round } from "./timing.js";

const WIDTH = 240;
const HEIGHT = 56;

export class Sparkline {
  #title;
  #kept;
  #series = new Map();
  #picture;
  #top = element("span", { class: "quiet" });

  constructor(title, columns, kept) {
    this.#title = title;
    this.#kept = kept;
    this.#picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": title });
    const newest = element("p", { class: "newest" });
    for (const column of columns) {
      const path = svg("path", { class: column.side });
      const now = element("span", { class: "now", "data-side": column.side }, "–");
      this.#picture.append(path);
      newest.append(element("span", { class: `swatch ${column.side}`, "aria-hidden": "true" }), now);
      this.#series.set(column, { values: [], path, now });
    }
    const head = element("div", { class: "head" }, element("h3", {}, title), this.#top);
    this.root = element("div", { class: "card" }, head, newest, this.#picture);
  }

  get empty() {
    return [...this.#series.values()].every(({ values }) => values.every((value) => value === null));
  }

  /** The next value of a server; null where it has none. */
  add(column, value) {
    const series = this.#series.get(column);
    series.values.push(value);
    if (series.values.length > this.#kept) series.values.shift();
    series.now.textContent = value === null ? "–" : round(value);
    this.#draw();
  }

  #draw() {
    const all = [...this.#series.values()].flatMap(({ values }) => values).filter((value) => value !== null);
    const top = Math.max(...all, 1e-9);
    for (const { values, path } of this.#series.values()) path.setAttribute("d", this.#line(values, top));
    this.#top.textContent = `top ${round(all.length ? top : 0)}`;
    const words = [...this.#series].map(([{ name }, { now }]) => `${name} ${now.textContent}`).join(", ");
    this.#picture.setAttribute("aria-label", `${this.#title}: ${words}; ${this.#top.textContent}`);
  }

  #line(values, top) {
    const step = WIDTH / (this.#kept - 1);
    const start = this.#kept - values.length;
    let pen = "M";
    let line = "";
    values.forEach((value, index) => {
      if (value === null) {
        pen = "M";
        return;
      }
      const y = HEIGHT - 2 - ((HEIGHT - 4) * value) / top;
      line += `${pen}${((start + index) * step).toFixed(1)} ${y.toFixed(1)}h0`; // a dot where it stands alone
      pen = "L";
    });
    return line;
  }
}
