"""Searches for the subnet that fits a budget, one registered file each."""
