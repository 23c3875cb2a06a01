"""One cache's decisions, pure: what comes in at one moment goes in, what is to be done comes out."""
