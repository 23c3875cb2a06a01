"""When caches have least to do, and what rate then leaves their viewers their headroom."""
