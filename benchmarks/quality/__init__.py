"""Methods side by side on one model, text, budget and evaluation code."""
