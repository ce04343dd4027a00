"""What local mode brings along: servers of its own, so that nothing needs to be installed or configured."""
