"""What is shown of what happens now: pure."""
