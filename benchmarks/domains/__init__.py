"""Subnets of domains beside masks by activation."""
