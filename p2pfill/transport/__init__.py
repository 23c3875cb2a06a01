"""Control links and data streams over trio sockets."""
