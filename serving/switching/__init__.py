"""Which subnet of a family answers a request."""
