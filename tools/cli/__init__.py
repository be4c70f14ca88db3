"""The command line: its entry, what its commands share, and the words of its errors."""
