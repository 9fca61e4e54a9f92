"""What workers save."""
