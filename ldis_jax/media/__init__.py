"""Images and videos on disk, and what is drawn for people."""
