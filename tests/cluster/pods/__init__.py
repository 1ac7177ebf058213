"""Jobs that train in real pods, with the operator that Helm installed."""
