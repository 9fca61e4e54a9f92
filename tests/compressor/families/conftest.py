from shown import shows

__all__ = ["shows"]
