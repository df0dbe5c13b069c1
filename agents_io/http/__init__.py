"""What the protocols over HTTP share: the HTTP/1.1 client, and the exchange of one request and one response."""
