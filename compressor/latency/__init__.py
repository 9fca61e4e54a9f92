"""Milliseconds: workloads, measuring, the table that predicts them, and the machine they hold for."""
