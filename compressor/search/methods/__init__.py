"""Search methods, one registered file each."""
