"""HTTP below the API: errors, middleware, bodies, timeouts."""
