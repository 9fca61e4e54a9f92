"""Running GGUF files in llama.cpp, without torch."""
