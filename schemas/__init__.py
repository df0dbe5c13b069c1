"""What goes over the wire: messages, the table of topics, the codec, the published contracts. Pure."""
