"""What Redis knows of every stream: the states, the record's shape, and the stores that keep it."""
