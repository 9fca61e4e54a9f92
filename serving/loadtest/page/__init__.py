"""A load test as one HTML page that needs nothing else: `html.page(document)`."""
