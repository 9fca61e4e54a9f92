"""Files of text as users have them: prose, and rows of JSON, JSON lines, CSV and Parquet."""
