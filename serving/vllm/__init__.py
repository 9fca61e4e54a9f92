"""vLLM's own OpenAI server, with our middleware before it and our metrics beside its own."""
