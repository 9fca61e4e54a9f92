"""Is the load tester right? See __main__."""
