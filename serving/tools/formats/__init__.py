"""The formats of tool calls, one file each; every file registers its format."""
