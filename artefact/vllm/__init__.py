"""The limits of vLLM, and the version that is installed."""
