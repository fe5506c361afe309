"""The agent as a Greengrass component: its wheels, the program that installs them, its recipe."""
