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

  /** Tokens per second after the first, or null. */
  get rate() {
    const seconds = (this.#last - this.#first) / 1000;
    return this.tokens > 1 && seconds > 0 ? (this.tokens - 1) / seconds : null;
  }

  toString() {
    if (this.ttft === null) return "waiting for the first token";
    const rate = this.rate === null ? "" : ` · ${round(this.rate)} tokens/s`;
    return `first token ${round(this.ttft)} ms${rate} · ${this.tokens} tokens`;
  }
}

/** Three digits that count. */
export function round(value) {
  if (value === 0) return "0";
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toLocaleString("en", { maximumFractionDigits: Math.min(digits, 6) });
}
