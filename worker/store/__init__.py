"""Where every fact lies."""
