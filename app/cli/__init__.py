"""Commands of `python -m app` besides serving. They need no running server, and none imports torch."""
