"""Which of Lathe's graphs released OpenVINO reads, and whether it computes them right."""
