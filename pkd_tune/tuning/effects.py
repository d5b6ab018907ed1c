"""Which hyperparameters have no effect: in a study, where they are fixed, and in the settings of one training run."""

from pkd_tune.config import Method
from pkd_tune.tuning.space import LEFT_OUT, Choice, Parameters, Settings, Value


def without_effect(parameters: Parameters, depth: int, *, regression: bool) -> dict[str, Value]:
    """Returns the parameters with several values of which none changes a training, each with the value it is given.

    The KD term has no temperature where its weight alpha is 0, nor in a regression, where it is a squared
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


def as_method(settings: Settings, method: Method) -> Settings:
    """Returns settings without what a method leaves out: the patience term for `kd`, and soft labels too for
    `finetuned`. All other values stay."""
    return {name: LEFT_OUT[method].get(name, value) for name, value in settings.items()}


def effective(settings: Settings, depth: int) -> Settings:
    """Returns settings with one value for all that have no effect, so that equal ones train alike.

    Without the patience term, and in a student of one layer, which has no intermediate layer, beta, strategy and
    normalize have none; without soft labels the temperature has none.
    """
    if settings["beta"] and depth > 1:
        return settings
    return as_method(settings, "kd" if settings["alpha"] else "finetuned")


def _is_fixed(parameters: Parameters, name: str) -> bool:
    parameter = parameters[name]
    return isinstance(parameter, Choice) and len(parameter.values) == 1 and parameter.when is None


def _is_zero(parameters: Parameters, name: str) -> bool:
    return name in parameters and _is_fixed(parameters, name) and parameters[name] == Choice((0,))
