"""HQ-SAM as a remote server of X-AnyLabeling."""
