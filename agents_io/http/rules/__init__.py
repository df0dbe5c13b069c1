"""How HTTP is written and read. Pure."""
