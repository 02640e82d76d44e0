"""The scan: a plan, its tasks, and where they run."""
