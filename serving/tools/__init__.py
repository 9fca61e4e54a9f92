"""Tool calling: how chat templates show tools, how calls are parsed, and their grammar."""
