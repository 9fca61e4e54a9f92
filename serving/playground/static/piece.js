// What one event of a streamed answer brings.

/** Fields of a delta that no token stands behind. */
const LABELS = new Set(["role", "type", "id", "index", "format", "object", "status", "annotations", "signature"]);

/** text: of the answer; reasoning: shown apart from it; carries: whether there was any token, of whatever kind. */
export function pieceOf(choice) {
  const delta = choice?.delta ?? {};
  return {
    text: words(delta.content) || words(choice?.text) || words(delta.refusal),
    reasoning: words(delta.reasoning) || words(delta.reasoning_content),
    carries: says(choice?.text) || says(delta),
  };
}

function words(value) {
  return typeof value === "string" ? value : "";
}

/** A text that is not empty, anywhere but under a label; white space is text. */
function says(value) {
  if (typeof value === "string") return value !== "";
  if (value === null || typeof value !== "object") return false;
  return Object.entries(value).some(([name, part]) => !LABELS.has(name) && says(part));
}
