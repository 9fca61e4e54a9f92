// Prometheus' text format, as far as a page needs it, and figures that both our server and vLLM tell.

const NAMES = {
  tokens: ["lathe_generation_tokens_total", "vllm:generation_tokens_total"],
  running: ["lathe_requests_running", "vllm:num_requests_running"],
  waiting: ["lathe_requests_waiting", "vllm:num_requests_waiting"],
  ttftSum: ["lathe_time_to_first_token_seconds_sum", "vllm:time_to_first_token_seconds_sum"],
  ttftCount: ["lathe_time_to_first_token_seconds_count", "vllm:time_to_first_token_seconds_count"],
  gapSum: ["lathe_inter_token_latency_seconds_sum", "vllm:inter_token_latency_seconds_sum"],
  gapCount: ["lathe_inter_token_latency_seconds_count", "vllm:inter_token_latency_seconds_count"],
  cache: ["lathe_kv_cache_usage_ratio", "vllm:kv_cache_usage_perc"],
  weights: ["lathe_family_weight_bytes", "lathe_model_weight_bytes"],
  memory: ["process_resident_memory_bytes"],
};
const GPU = "lathe_gpu_memory_used_bytes";
const INFO = "lathe_model_info";

/** Name to samples: { labels: text, value }. */
export function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(\{.*\})? (\S+)/.exec(line);
    if (!match) continue;
    const samples = found.get(match[1]) ?? [];
    samples.push({ labels: match[2] ?? "", value: Number(match[3]) });
    found.set(match[1], samples);
  }
  return found;
}

/** Figures by the keys of NAMES, summed over labels, and the model's variant; undefined where the server does not
 * tell. */
export function figures(text) {
  const samples = parse(text);
  const found = {};
  for (const [figure, names] of Object.entries(NAMES)) {
    const name = names.find((one) => samples.has(one));
    if (name) found[figure] = sum(samples.get(name));
  }
  const gpu = samples.get(GPU) ?? [];
  const own = gpu.filter(({ labels }) => labels.includes('scope="process"'));
  if (gpu.length) found.gpu = sum(own.length ? own : gpu);
  found.variant = /variant="(\w+)"/.exec(samples.get(INFO)?.[0].labels)?.[1];
  return found;
}

function sum(samples) {
  return samples.reduce((total, { value }) => total + value, 0);
}
