"""Clients that applications are built with, on our server."""
