"""The commands of the people who run the daemon: look, mend, check. They share Redis with it, and nothing else."""
