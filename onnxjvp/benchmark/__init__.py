"""What the products of a model cost beside its plain forward pass: time and memory."""
