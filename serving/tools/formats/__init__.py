"""The forms of tool calls, one file each; every file registers its form."""
