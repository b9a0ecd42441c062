"""HQ-SAM as an interactor of CVAT: `hqsam_cvat.agent` is the function of an agent."""
