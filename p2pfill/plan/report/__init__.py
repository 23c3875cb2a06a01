"""What came of a plan: of the night that filled it, and of the day that was watched."""
