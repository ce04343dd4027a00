"""What a recording is, and the JSON that says so beside its object."""
