"""How recordings come in: the watcher, and the stale checker that looks after what the watcher cannot see."""
