"""What is held in memory so that it need not be read again."""
