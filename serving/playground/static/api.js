// Requests to this server, and through it to the one it is compared with. The key lives here, in memory only.

/** Where the server's paths begin, under whatever prefix a proxy has put it. */
const ROOT = new URL("..", import.meta.url);
let key = "";

export function useKey(value) {
  key = value;
}

/** Anything but a 2xx; `status` tells which, 0 for no answer at all. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(new URL(path, ROOT), { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the server does not answer");
  }
  if (!answer.ok) throw new ApiError(answer.status, await complaint(answer));
  return answer;
}

async function complaint(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `status ${answer.status}`;
  }
}

export async function getJson(path) {
  return (await ask(path)).json();
}

export async function getText(path) {
  return (await ask(path)).text();
}

/** The events of a streamed answer, as objects, until [DONE], or its end where all was said. `heads` gets its headers. */
export async function* stream(path, body, signal, heads = () => {}) {
  const answer = await ask(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  heads(answer.headers);
  let text = "";
  let ended = false;
  for await (const part of parts(answer.body.pipeThrough(new TextDecoderStream()))) {
    text += part;
    const events = text.split(/\r?\n\r?\n/);
    text = events.pop();
    for (const event of events) {
      const data = dataOf(event);
      if (data === "") continue; // a comment
      if (data === "[DONE]") return;
      const document = JSON.parse(data);
      if (document.error) throw new ApiError(answer.status, document.error.message);
      ended ||= Boolean(document.choices?.[0]?.finish_reason);
      yield document;
    }
  }
  if (ended) return;
  throw new ApiError(answer.status, "the answer was broken off");
}

/** What the data lines of an event say together. */
function dataOf(event) {
  const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.replace(/^data: ?/, "")).join("\n");
}

async function* parts(readable) {
  const reader = readable.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {}); // also when the reader of the events stops early
  }
}
