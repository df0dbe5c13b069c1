"""How to reach the brokers, and what every command and role does there."""
