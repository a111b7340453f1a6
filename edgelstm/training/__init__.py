"""The only home of torch and onnx: train, keep and export a row LSTM (extra: train)."""
