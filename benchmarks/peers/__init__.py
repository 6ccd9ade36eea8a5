"""What the library is compared with: torch and onnx-ad, each in an environment of its own."""
