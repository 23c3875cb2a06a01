"""What each region will watch of each file on the next day, how sure that is, and why."""
