"""What the clients share: requests and responses, the channel, uploads, prompts and frames."""
