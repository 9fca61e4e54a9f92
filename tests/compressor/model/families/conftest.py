from support.shown import shows

__all__ = ["shows"]
