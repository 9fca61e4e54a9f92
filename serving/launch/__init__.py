"""The one place that puts API, scheduler and engines together."""
