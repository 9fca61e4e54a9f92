"""One file for each way of writing tool calls; each registers itself."""
