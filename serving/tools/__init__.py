"""Tool calling: how chat templates show tools and calls, how calls are read back, what holds them to schemas."""
