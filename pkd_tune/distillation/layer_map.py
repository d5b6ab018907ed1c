"""Layer maps: which teacher layer each student layer imitates, and from which layers a student is initialised.

Layers are counted from 1, the first transformer layer; the embedding output is layer 0 and is never imitated.
"""

from pkd_tune.config import Init, Strategy


def teacher_layers(strategy: Strategy, student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """Returns the teacher layer for each student layer 1 .. k-1, where k is `student_layers`.

    The top layers are left out on both sides, because the soft labels already cover them (Sun et al., EMNLP 2019,
    section 3.2). `skip` (PKD-Skip): student layer j imitates teacher layer floor(j N / k). `last` (PKD-Last): layer
    j + N - k. For 12 to 6 layers these are the paper's (2, 4, 6, 8, 10) and (7, 8, 9, 10, 11).

    Args:
        strategy: `skip` or `last`.
        student_layers: Depth k of the student, at least 1.
        teacher_layers: Depth N of the teacher, above k.

    Returns:
        k-1 strictly increasing layer numbers in 1 .. N-1; empty for k = 1.

    Raises:
        ValueError: Unless 1 <= k < N and the strategy is known.
    """
    if not 1 <= student_layers < teacher_layers:
        raise ValueError(
            f"a student of a {teacher_layers}-layer teacher must have 1 to {teacher_layers - 1} layers, "
            f"but got {student_layers=}"
        )
    inner_layers = range(1, student_layers)
    match strategy:
        case "skip":
            return tuple(layer * teacher_layers // student_layers for layer in inner_layers)
        case "last":
            return tuple(layer + teacher_layers - student_layers for layer in inner_layers)
        case _:
            raise ValueError(f"strategy must be skip or last, but got {strategy!r}")


def start_layers(init: Init, student_layers: int, model_layers: int) -> tuple[int, ...]:
    """Returns the layers of a model from which layers 1 .. k of a student are initialised.

    Args:
        init: With `teacher-skip` student layer j starts from layer floor(j N / k); else from layer j.
        student_layers: Depth k of the student.
        model_layers: Depth N of the model, at least k.

    Raises:
        ValueError: Unless 1 <= k <= N.
    """
    if not 1 <= student_layers <= model_layers:
        raise ValueError(f"cannot cut a {model_layers}-layer model to {student_layers} layers")
    layers = range(1, student_layers + 1)
    if init == "teacher-skip":
        return tuple(layer * model_layers // student_layers for layer in layers)
    return tuple(layers)
