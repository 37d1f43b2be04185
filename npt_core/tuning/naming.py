"""What the classes of a data set are called in prompts, and whether the backbone knows those words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from npt_core.continual.settings import refuse_renaming
from npt_core.errors import ConfigError, Fault

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt
    from npt_core.data.dataset import Dataset
    from npt_core.tuning.config import TuneConfig

MAX_WORDS_TOLD = 10


def name_classes(dataset: Dataset, config: TuneConfig, old: Sequence[ClassPrompt] = ()) -> list[ClassPrompt]:
    """Return the K classes: a parent's as they are, then those of the data set in the order of its labels.

    Args:
        dataset: Names its classes.
        config: Its names go before the data set's.
        old: The parent's classes, which keep their words whatever the data set calls them.

    Raises:
        ConfigError: The config names a class that there is not, or gives one of the parent's another name.
    """
    from npt_core.clip.tokens import ClassPrompt

    given = dict(config.class_names)
    kept = {one.label: one for one in old}
    refuse_renaming(given, {label: one.name for label, one in kept.items()})
    unknown = sorted(set(given) - set(dataset.labels) - set(kept))
    if unknown:
        raise ConfigError(
            f"class_names speaks of {', '.join(map(repr, unknown[:5]))}, which the data set does not have; its "
            f"classes are {', '.join(map(repr, dataset.labels[:20]))}.",
            [Fault(f"class_names.{label}", "no such class in the data set") for label in unknown],
        )
    classes = list(old)
    for label in dataset.labels:
        if label in kept:
            continue
        info = dataset.prompts[label]
        if label in given:
            classes.append(ClassPrompt(label, given[label].strip()))
        else:
            classes.append(ClassPrompt(label, info.name, tuple(info.phrasings)))
    return classes


def unseen_words_warning(classes: Sequence[ClassPrompt], backbone: Backbone) -> str | None:
    """Return a warning about words of class names that the backbone never saw, or None."""
    unseen = {
        word: one.label for one in classes for phrasing in one.phrasings for word in backbone.unseen_words(phrasing)
    }
    if not unseen:
        return None
    listed = ", ".join(f"{word!r} (class {label!r})" for word, label in list(unseen.items())[:MAX_WORDS_TOLD])
    more = f" and {len(unseen) - MAX_WORDS_TOLD} more" if len(unseen) > MAX_WORDS_TOLD else ""
    return (
        f"Backbone {backbone.name!r} never saw these words in its training: {listed}{more}. Their text "
        "features start from noise; give names it knows with class_names, or use another backbone."
    )
