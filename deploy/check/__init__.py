"""What is in `deploy/`, linted, rendered, and run as far as a machine without containers, cluster and GPU can."""
