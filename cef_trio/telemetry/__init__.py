"""What is counted and measured, for Prometheus. Knows the outside services' words, and nothing of streams' tasks."""
