"""What a circuit that cannot cross the border says."""


class CircuitError(ValueError):
    """A Brian2 network holds something that has no exact counterpart here; the message says what, and what has."""
