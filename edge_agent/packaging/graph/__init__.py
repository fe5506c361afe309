"""What a target will make of an ONNX graph, found before the component is made."""
