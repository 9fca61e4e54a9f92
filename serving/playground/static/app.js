// The playground: what is served, beside the server it is compared with, if there is one.

import { ApiError, getJson, useKey } from "./api.js";
import { Column } from "./column.js";
import { byId } from "./dom.js";
import { Metrics } from "./metrics.js";
import { tabs } from "./tabs.js";
import { round } from "./timing.js";

const SETUP = "playground/setup";
const COMPARE = "compare/";
let columns = [];
let stopping = null;

/** The setup, once the server lets us see it; asks for the key until then. */
async function setup() {
  const form = byId("key");
  for (;;) {
    try {
      const found = await getJson(SETUP);
      form.hidden = true;
      return found;
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) throw error;
      if (!form.hidden) byId("key-note").textContent = "This server does not take that key.";
    }
    form.hidden = false;
    byId("ask").hidden = true;
    byId("key-field").focus();
    await new Promise((resolve) => form.addEventListener("submit", (event) => {
      event.preventDefault();
      useKey(byId("key-field").value.trim());
      resolve();
    }, { once: true }));
  }
}

async function columnsOf({ model, chat, compare }) {
  const found = [new Column({ name: model, side: "subnet", prefix: "", chat })];
  if (!compare) return found;
  try {
    const other = (await getJson(`${COMPARE}v1/models`)).data[0].id;
    found.push(new Column({ name: other, side: "other", prefix: COMPARE, chat }));
  } catch (error) {
    byId("alone").textContent = `Only one model: ${error.message}. Load this page again to try once more.`;
  }
  return found;
}

async function send(event) {
  event.preventDefault();
  const field = byId("prompt");
  const text = field.value.trim();
  if (!text || stopping) return;
  stopping = new AbortController();
  busy(true);
  field.value = "";
  const options = {
    maxTokens: byId("max-tokens").valueAsNumber,
    temperature: byId("temperature").valueAsNumber,
    signal: stopping.signal,
  };
  const said = [];
  if (byId("in-turns").checked) {
    for (const column of columns) said.push(await column.answer(text, options));
  } else {
    said.push(...(await Promise.all(columns.map((column) => column.answer(text, options)))));
  }
  byId("status").textContent = said.join(". ");
  stopping = null;
  busy(false);
  field.focus();
}

function busy(on) {
  byId("send").disabled = on;
  byId("clear").disabled = on;
  byId("stop").disabled = !on;
}

function wire({ model, chat, context, target_ms: target }) {
  byId("model").textContent = target ? `${model}, made for ${round(target)} ms per token` : model;
  if (!chat) byId("prompt-label").textContent = "Text to go on with";
  byId("turns").hidden = columns.length < 2;
  byId("max-tokens").max = String(context);
  byId("ask").hidden = false;
  byId("ask").addEventListener("submit", send);
  byId("stop").addEventListener("click", () => stopping?.abort());
  byId("clear").addEventListener("click", () => columns.forEach((column) => column.clear()));
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      byId("ask").requestSubmit();
    }
  });
}

async function main() {
  tabs(document.querySelector("[role=tablist]"));
  try {
    const found = await setup();
    columns = await columnsOf(found);
    byId("columns").replaceChildren(...columns.map((column) => column.root));
    wire(found);
    await new Metrics(columns).run();
  } catch (error) {
    byId("columns").textContent = `The playground cannot start: ${error.message}.`;
    byId("columns").setAttribute("role", "alert");
  }
}

main();
