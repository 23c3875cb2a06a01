"""Fill logic without I/O: events and the time go in, actions come out."""
