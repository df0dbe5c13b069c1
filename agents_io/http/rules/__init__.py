"""How HTTP/1.1 is written and read. Pure."""
