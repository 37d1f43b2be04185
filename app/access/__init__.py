"""Access: API keys, what each may use up, and the log of who changed what."""
