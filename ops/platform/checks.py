"""Checks of which the first that does not hold ends the run."""

passed = 0


def that(holds, what):
    """`what` is told where it does not hold."""
    global passed  # noqa: PLW0603
    if not holds:
        raise SystemExit(f"FAILED: {what}")
    passed += 1
