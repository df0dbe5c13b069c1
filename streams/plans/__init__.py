"""What the plans processor is made of beside its rules: memory, clock."""
