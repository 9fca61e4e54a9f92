"""Measurements that the README and the docs quote; each writes JSON."""
