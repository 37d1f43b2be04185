"""What the API says of a comparison."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from app.schemas import DATASET_ID, MODEL_ID, Answer

PAIR: dict[str, Any] = {
    "first": MODEL_ID,
    "second": "zero-shot",
    "both_right": 61,
    "only_first_right": 14,
    "only_second_right": 2,
    "both_wrong": 3,
    "difference": 0.15,
    "p_value": 0.0042,
    "p_holm": 0.0042,
    "significant": True,
}


class ComparedOn(Answer):
    """The images everybody was judged on."""

    id: str = Field(description="The data set.")
    split: str | None = Field(description="Only this split of it; null: all of it.")
    images: int
    classes: list[str]
    unreadable: list[dict[str, Any]] = Field(description="Images that could not be read, with the reason.")
    copies: int = Field(default=0, description="Files left out because another one has the same bytes and label.")
    tuned_on: int = Field(description="Images that one of the models was tuned on.")
    seen: str = Field(description="Whether those were left out (leave-out) or judged on (keep).")
    among: str = Field(description="Whether they chose among their own classes or the data set's.")


class Contender(Answer):
    """One of those compared. `model` and what follows is null for zero-shot."""

    name: str = Field(description="The id of a model, or zero-shot.")
    model: str | None = None
    title: str | None = Field(default=None, description="The name of the model.")
    version: int | None = None
    method: str | None = None
    regularizer: str | None = None
    backbone: str
    resize: str | None = Field(default=None, description="For zero-shot: how images were fitted into the square.")
    calibrated_here: bool = Field(default=False, description="Its temperature was fitted on images of this data set.")
    classes: int = Field(description="How many classes it chose among.")
    unknown_classes: list[str] = Field(description="Classes of the data set that it cannot answer.")
    metrics: dict[str, Any] = Field(
        description="`count`, `accuracy` with its interval, `macro` and `per_class` precision, recall and F1, "
        "`confusion` (rows are the truth), `most_confused`, `calibration_error`, `nll`."
    )


class Pair(Answer):
    """Two of them on the same images: McNemar's exact test, the better one first."""

    model_config = ConfigDict(json_schema_extra={"example": PAIR})

    first: str
    second: str
    both_right: int
    only_first_right: int
    only_second_right: int
    both_wrong: int
    difference: float = Field(description="Accuracy of the first less that of the second.")
    p_value: float = Field(description="How probable so uneven a split is by chance.")
    p_holm: float = Field(description="The same after Holm's correction for all pairs that were looked at.")
    significant: bool = Field(description="`p_holm` is below 0.05.")


class Verdict(Pair):
    """The best two."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                **PAIR,
                "words": f"{MODEL_ID} alone is right on 14 of 80 images, zero-shot alone on 2: {MODEL_ID} is better "
                "(p = 0.0042).",
            }
        }
    )

    words: str


class Disagreement(Answer):
    """An image that one of the best two got right and the other did not; the surest mistakes come first."""

    path: str
    label: str
    answers: dict[str, Any] = Field(description="Name -> label and probability.")
    image: str | None = Field(default=None, description="A thumbnail of at most 64 x 64 pixels, as a data URI.")


class Comparison(Answer):
    """Models and zero-shot, judged on the same images."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "format": 1,
                "dataset": {
                    "id": DATASET_ID,
                    "split": None,
                    "images": 80,
                    "classes": ["0", "1"],
                    "unreadable": [],
                    "tuned_on": 0,
                    "seen": "leave-out",
                    "among": "own",
                },
                "contestants": [
                    {
                        "name": MODEL_ID,
                        "model": MODEL_ID,
                        "title": "digits",
                        "version": 3,
                        "method": "coop",
                        "regularizer": "npt",
                        "backbone": "demo",
                        "classes": 2,
                        "unknown_classes": [],
                        "metrics": {"count": 80, "accuracy": 0.9375, "accuracy_interval": [0.862, 0.973]},
                    }
                ],
                "best": [MODEL_ID, "zero-shot"],
                "test": {**PAIR, "words": f"{MODEL_ID} is better (p = 0.0042)."},
                "pairs": [PAIR],
                "disagreements": [
                    {
                        "path": "1/07.png",
                        "label": "1",
                        "answers": {
                            MODEL_ID: {"label": "1", "probability": 0.91},
                            "zero-shot": {"label": "0", "probability": 0.62},
                        },
                    }
                ],
                "warnings": [],
            }
        }
    )

    format: int
    dataset: ComparedOn
    contestants: list[Contender] = Field(description="Best first.")
    best: list[str] = Field(description="The best two.")
    test: Verdict
    pairs: list[Pair]
    disagreements: list[Disagreement]
    warnings: list[str]
