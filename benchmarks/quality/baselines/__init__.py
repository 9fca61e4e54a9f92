"""Published methods from their papers' equations, one registered file each, its source in its docstring."""
