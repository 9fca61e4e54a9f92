"""OpenAI's Responses API, without a store: every request brings its whole conversation."""
