"""`python -m smcd_jax` is `smcd`."""

from __future__ import annotations

import sys

from smcd_jax.cli import main

sys.exit(main())
