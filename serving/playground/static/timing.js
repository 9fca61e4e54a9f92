// What the reader of one streamed answer can tell of its speed.

export class Timing {
  #asked = performance.now();
  #first = null;
  #last = null;
  #pieces = 0;
  tokens = 0;

  /** One event with text; `usage` is the server's own count, where it tells. */
  piece() {
    this.#last = performance.now();
    this.#first ??= this.#last;
    this.#pieces += 1;
    this.tokens = Math.max(this.tokens, this.#pieces);
  }

  counted(usage) {
    if (usage?.completion_tokens) this.tokens = usage.completion_tokens;
  }

  /** Milliseconds to the first token, or null. */
  get ttft() {
    return this.#first === null ? null : this.#first - this.#asked;
  }

  /** From the question to the newest token: several may arrive at once, so gaps between them mean little here. */
  get seconds() {
    return (this.#last - this.#asked) / 1000;
  }

  toString() {
    if (this.ttft === null) return "waiting for the first token";
    const rate = round(this.tokens / this.seconds);
    return `first token ${round(this.ttft)} ms · ${this.tokens} tokens in ${round(this.seconds)} s · ${rate} tokens/s`;
  }
}

/** Three digits that count. */
export function round(value) {
  if (value === 0) return "0";
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toLocaleString("en", { maximumFractionDigits: Math.min(digits, 6) });
}
