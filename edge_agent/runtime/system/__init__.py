"""What the operating system gives: files of the agent, descriptors, memory."""
