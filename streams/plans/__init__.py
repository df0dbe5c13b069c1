"""The plans role beside its rules: intake, outcomes, state, deadlines."""
