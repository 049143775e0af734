"""matplotlib, as every program here that draws wants it."""

import os
from pathlib import Path
from typing import Any

import environment

PNG = b"\x89PNG\r\n\x1a\n"  # how the files begin


def load_pyplot() -> Any:
    """pyplot, for files alone: no screen is needed."""
    # matplotlib keeps a list of the machine's fonts; it belongs with what was built, not in the user's home.
    os.environ.setdefault("MPLCONFIGDIR", os.path.join(environment.ROOT, "build", "cache", "matplotlib"))
    Path(os.environ["MPLCONFIGDIR"]).mkdir(parents=True, exist_ok=True)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
