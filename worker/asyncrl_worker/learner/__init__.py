"""The learner: batches in, versions of the policy out."""
