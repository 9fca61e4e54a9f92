"""What is in `deploy/`, linted, rendered, and run as far as can be without containers, cluster and GPU."""
