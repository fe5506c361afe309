"""What verdicts say taken together: summaries, alarms, drift."""
