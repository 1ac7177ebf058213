"""What holds for all tests."""

import signal

from hypothesis import settings

# A shell ignores SIGINT for what it starts in the background, and so would the programs that tests
# interrupt: an ignored signal is inherited, a handled one is not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about the machine than about us.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
