"""Tool calling: how chat templates show tools, how calls are read back, what holds them to schemas."""
