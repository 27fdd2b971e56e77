"""Pictures and videos on disk, and what is drawn for people."""
