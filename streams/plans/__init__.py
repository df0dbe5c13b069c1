"""What the plans processor is made of beside its rules: what may begin, what is published, memory, clock."""
