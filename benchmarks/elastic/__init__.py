"""A family of subnets beside artefacts of runs of their own: bytes, memory, steps and loss."""
