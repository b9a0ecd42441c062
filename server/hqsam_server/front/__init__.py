"""What stands between callers and Triton: nobody else reaches Triton's own ports."""
