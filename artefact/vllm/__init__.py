"""What vLLM can serve, and whether it is installed."""
