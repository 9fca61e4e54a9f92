"""vLLM: its own OpenAI server, with our gate before it and our metrics beside its own."""
