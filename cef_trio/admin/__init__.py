"""The admin server: metrics, health, readiness and the status page. It shows, and can change nothing."""
