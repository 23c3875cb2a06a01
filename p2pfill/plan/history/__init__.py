"""What was watched, from night to night: logs in, tables out. The only part of the planner that reads and writes."""
