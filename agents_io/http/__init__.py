"""Everything over HTTP: the exchange all share, and one transport for each protocol."""
