"""The connection to an MQTT broker: options, life, reasons, diagnosis."""
