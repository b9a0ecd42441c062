"""The benchmarks behind the published figures."""
