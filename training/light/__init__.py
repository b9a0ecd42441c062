"""The next small model: Light HQ-SAM, trained to be right on photographs."""
