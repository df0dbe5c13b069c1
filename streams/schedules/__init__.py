"""Tasks whose time has not come, and schedules that make tasks."""
