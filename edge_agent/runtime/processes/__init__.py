"""Child processes of the agent: started, limited in time, read, ended."""
