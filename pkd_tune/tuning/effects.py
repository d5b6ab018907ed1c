"""Which hyperparameters have no effect on the trials of a study; they are fixed, so that no sampler searches them."""

from pkd_tune.tuning.space import Choice, Parameters, Value


def without_effect(parameters: Parameters, depth: int, *, regression: bool) -> dict[str, Value]:
    """Returns the parameters with several values of which none changes a training, each with the value it is given.

    The soft-label term has no temperature where its weight alpha is 0, nor in a regression, where it is a squared
    error. The intermediate-layer (PT) term has neither layer map nor normalisation where its weight beta is 0, and a
    student of one layer has no such term. In a deeper student `skip` and `last` always differ: below the top layer it
    imitates layer N - ceil(N/k) of N with the one, and layer N - 1 with the other.

    Args:
        parameters: Of one method, from `space.for_method()`.
        depth: Layers of the students.
        regression: Whether labels are numbers.
    """
    idle: dict[str, Value] = {}
    if regression or _is_zero(parameters, "alpha"):
        idle["temperature"] = 1.0
    if depth == 1 or _is_zero(parameters, "beta"):
        idle |= {"beta": 0.0, "strategy": "skip", "normalize": False}
    return {name: value for name, value in idle.items() if name in parameters and not _is_fixed(parameters, name)}


def _is_fixed(parameters: Parameters, name: str) -> bool:
    parameter = parameters[name]
    return isinstance(parameter, Choice) and len(parameter.values) == 1 and parameter.when is None


def _is_zero(parameters: Parameters, name: str) -> bool:
    return name in parameters and _is_fixed(parameters, name) and parameters[name] == Choice((0,))
