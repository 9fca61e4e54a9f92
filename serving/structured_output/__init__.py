"""GrammarCompiler that hold what a model may say: JSON schemas, patterns, tools."""
