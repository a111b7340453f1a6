"""Run an exported model: pictures, pixels and rows to logits and answers."""
