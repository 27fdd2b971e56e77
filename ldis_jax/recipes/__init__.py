"""Parts that config files share."""
