"""The labels of a job's objects: written by the operator, selected by it and by the command."""

from __future__ import annotations

JOB = "asyncrl.io/job"
"""Name of the AsyncRLJob, on everything that belongs to it."""
ROLE = "asyncrl.io/role"
"""`actor`, `learner` or `parameter-server`, on pods and what they come from."""
INDEX = "batch.kubernetes.io/job-completion-index"
"""Number of the process within its role; the Job controller sets it on the pods."""
