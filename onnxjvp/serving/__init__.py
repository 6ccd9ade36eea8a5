"""Models as servers take them: Triton's repositories, and MLServer's with a runtime of its own."""
