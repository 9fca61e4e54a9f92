"""Training of the router that is ahead of the layers: from a prompt's token embeddings to a domain."""
