"""The page at `/`: chat with what is served, beside a second server if there is one, and live metrics."""
