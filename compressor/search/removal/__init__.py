"""Units that are removed step by step, the least salient for what they cost first."""
