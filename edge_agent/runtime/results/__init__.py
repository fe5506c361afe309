"""The results pipeline: verdicts become events, which are stored on disk and delivered."""
