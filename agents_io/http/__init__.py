"""What the protocols over HTTP share: our HTTP/1.1 client, and the exchange of one request and one response."""
