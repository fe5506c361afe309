"""The connection to an MQTT broker: options, lifecycle, errors, diagnosis."""
