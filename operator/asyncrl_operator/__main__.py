"""`python -m asyncrl_operator`."""

from __future__ import annotations

import sys

from asyncrl_operator.main import main

sys.exit(main())
