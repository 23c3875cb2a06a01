"""Pure data: ids, nodes, titles, manifests, bitmaps, policies, limits. No sockets, files, clocks or trio."""
