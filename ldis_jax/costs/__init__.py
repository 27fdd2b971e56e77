"""What the real programs cost on TPUs, found out by their compiler on any machine."""
