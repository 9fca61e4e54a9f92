"""The page at `/`: chat with the served model, beside a second server if there is one, and live metrics."""
