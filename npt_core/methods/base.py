"""The contract of a method (a prompt learner, a head, a baseline): what the one trainer and the server rely on.

A method is a frozen config and a module whose parameters are exactly what is learned. The backbone is held, never
registered, so that `parameters()` and `state_dict()` are the artefact. A new method is a new file in this package; the
trainer, the regularisers and the server never ask which one they drive, they read the facts and call the hooks below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from npt_core.discovery import Registry
from npt_core.errors import ConfigError, IncompatibleError
from npt_core.methods.parts.templates import default_templates, template_features
from npt_core.schema import Settings

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt


class ImageInput(StrEnum):
    """What a method needs of an image. The first two are encoded once and cached."""

    POOLED = "pooled"
    TOKENS = "tokens"
    PIXELS = "pixels"


REFERENCE_LOGIT_SCALE = 100.0
"""Of the published CLIP towers: rates and gradient lengths in papers belong to it."""


@dataclass(frozen=True)
class MethodConfig(Settings):
    """Settings of a method. Subclasses declare their fields with `npt_core.schema.setting`."""


@dataclass(frozen=True)
class Recipe:
    """Training defaults of a method; every one of them gives way to the tune config.

    Attributes:
        epochs_by_shots: (largest images per class, epochs) pairs in rising order; the last one holds for more.
        warmup_lr: Learning rate of the warm-up epochs.
        clip_norm: Longest gradient a step may follow, at a logit scale of 100; longer ones are shortened to it. Ours:
            it binds in rare spikes, after which plain SGD with momentum would not come back.
    """

    lr: float = 0.002
    batch_size: int = 32
    epochs_by_shots: tuple[tuple[int, int], ...] = ((1, 50), (4, 100), (1_000_000, 200))
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: int = 1
    warmup_lr: float = 1e-5
    clip_norm: float = 10.0

    def epochs(self, shots: float) -> int:
        """Return the default number of epochs for `shots` images a class."""
        for limit, epochs in self.epochs_by_shots:
            if shots <= limit:
                return epochs
        return self.epochs_by_shots[-1][1]


@dataclass(frozen=True)
class ImageBatch:
    """A batch of B images, as much of each as the method's `image_input` asks for.

    Attributes:
        features: (B, d) unit-norm features of the frozen image tower; given for POOLED and TOKENS, and where they are
            at hand for PIXELS.
        tokens: (B, T, d) unit-norm token features of the frozen image tower; given for TOKENS.
        pixels: (B, 3, H, W) preprocessed pixels; given for PIXELS.
        labels: (B,) class indices while tuning, None when predicting.
    """

    features: Tensor | None = None
    tokens: Tensor | None = None
    pixels: Tensor | None = None
    labels: Tensor | None = None

    def part(self, start: int, end: int) -> ImageBatch:
        """Return the images from `start` to before `end`."""
        return ImageBatch(
            *(None if t is None else t[start:end] for t in (self.features, self.tokens, self.pixels, self.labels))
        )


@dataclass
class MethodOutput:
    """What `forward` returns.

    Attributes:
        image_features: (B, d) unit-norm.
        text_features: (K, d), or (B, K, d) where the text depends on the image, or None; unit-norm.
        logits: (B, K) float32.
    """

    image_features: Tensor
    text_features: Tensor | None
    logits: Tensor


class Method(nn.Module):
    """Base of every method.

    Args:
        config: An instance of this class's `Config`.
        backbone: The frozen towers; held, not registered.
        classes: The K classes in the order of the logits.
        generator: Source of every random number of the method (CPU).

    Facts (class variables) that buy speed:
        image_input: What is encoded, and whether it can be cached.
        text_depends_on_image: False means that text features are computed once for serving.
        reads_frozen_features: A method on pixels that also reads the frozen tower's features of a batch: a tuning
            encodes them once and gives them along.
        image_depends_on_classes: The image features of a picture change with the set of class names.
        learns_image_path: The image features move while tuning (class means then come from batches with a memory).
        has_text_features: False for heads on image features.
        moves_features: False where tuning moves neither text nor image features (heads, caches, nothing learned at
            all); no regulariser then applies.
        learns: False where nothing is learned at all.
        learns_class_shares: Its logits hold the log of each class's share of the training images, as a free bias for
            each class ends up with.
        supports_new_classes: `with_classes` can work; `refuses_new_classes` may still refuse for this config.
        parent_refusal: Why a tuning cannot go on from a model of this method; None where it can.
        replays_by_itself: What is learned holds the old images already: they need not be tuned on again.
        free_settings: Settings that a tuning which goes on from a model may change: they shape the loss, not what is
            learned.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    Config: ClassVar[type[MethodConfig]]
    image_input: ClassVar[ImageInput] = ImageInput.POOLED
    text_depends_on_image: ClassVar[bool] = False
    reads_frozen_features: ClassVar[bool] = False
    image_depends_on_classes: ClassVar[bool] = False
    learns_image_path: ClassVar[bool] = False
    has_text_features: ClassVar[bool] = True
    moves_features: ClassVar[bool] = True
    learns: ClassVar[bool] = True
    learns_class_shares: ClassVar[bool] = False
    supports_new_classes: ClassVar[bool] = True
    parent_refusal: ClassVar[str | None] = None
    replays_by_itself: ClassVar[bool] = False
    free_settings: ClassVar[frozenset[str]] = frozenset()
    recipe: ClassVar[Recipe] = Recipe()

    backbone: Backbone

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        classes: Sequence[ClassPrompt],
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if len(classes) < 2:
            raise ConfigError(f"A classifier needs at least 2 classes, {len(classes)} given; add a class.")
        self.__dict__["backbone"] = backbone  # past nn.Module.__setattr__: towers must never be registered
        self.config = config
        self.classes = tuple(classes)
        self.generator = generator
        self.chunk: int | None = None
        self._zero_shot_text: Tensor | None = None

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def scale(self) -> float:
        """The logit scale s, already exponentiated."""
        return float(self.backbone.logit_scale)

    @classmethod
    def answers_from_text(cls) -> bool:
        """Whether its logits are scaled cosines of frozen image features and fixed text features, and nothing else.

        A server then keeps the text features of such a classifier alone. Read off what a method overrides, so that one
        which computes more than that is never taken for one that does not.
        """
        plain = all(
            getattr(cls, name) is getattr(Method, name) for name in ("forward", "encode_image", "logits", "scale")
        )
        pooled = cls.image_input is ImageInput.POOLED
        return plain and pooled and cls.has_text_features and not cls.text_depends_on_image

    def storages(self) -> dict[int, int]:
        """Return bytes by address of every tensor it holds, learned or made from the class names; without the towers.

        By address, so that what several methods share is counted once.
        """
        found: dict[int, int] = {}
        for module in self.modules():
            held = [value for name, value in vars(module).items() if name != "backbone"]
            held += [*module._parameters.values(), *module._buffers.values()]  # noqa: SLF001
            for value in held:
                # A prompt table holds its tensors in attributes.
                inner = () if isinstance(value, Tensor | nn.Module) else getattr(value, "__dict__", {}).values()
                for tensor in (value, *inner):
                    if isinstance(tensor, Tensor):
                        storage = tensor.untyped_storage()
                        found[storage.data_ptr()] = storage.nbytes()
        return found

    @property
    def takes_steps(self) -> bool:
        """Whether there is something for the optimiser; False where all is learned in `fit`, or nothing."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @classmethod
    def default_lr(cls, backbone: Backbone, config: MethodConfig) -> float:
        """Return the learning rate where the config names none; a method may adapt it to the backbone."""
        return cls.recipe.lr

    def zero_shot_text(self) -> Tensor:
        """Return the (K, d) frozen text features of the hand-written prompts, encoded once."""
        if self._zero_shot_text is None:
            texts = default_templates(self.backbone)
            self._zero_shot_text = template_features(self.backbone, self.classes, texts)
        return self._zero_shot_text

    # --- what a method computes ---------------------------------------------------------------------------------------

    def encode_text(self) -> Tensor:
        """Return the (K, d) text features; only for methods whose text does not depend on the image."""
        raise NotImplementedError(f"{type(self).__name__} has no text features of its own")

    def encode_image(self, batch: ImageBatch) -> Tensor:
        """Return the (B, d) image features. The frozen path hands on what was encoded before."""
        if batch.features is None:
            raise ConfigError(f"Method {self.name!r} works on image features and none were given.")
        return batch.features

    def logits(self, image_features: Tensor, text_features: Tensor | None) -> Tensor:
        """Return (B, K) logits of (B, d) image and (K, d) or (B, K, d) text features."""
        if text_features is None:
            raise NotImplementedError(f"{type(self).__name__} must compute its own logits")
        if text_features.dim() == 3:
            return self.scale * torch.einsum("bd,bkd->bk", image_features, text_features)
        return self.scale * image_features @ text_features.t()

    def forward(self, batch: ImageBatch, text_features: Tensor | None = None) -> MethodOutput:
        """Classify a batch.

        Args:
            batch: The images.
            text_features: (K, d) computed before, where the text does not depend on the image; else None.
        """
        image_features = self.encode_image(batch)
        if text_features is None and self.has_text_features:
            text_features = self.encode_text()
        return MethodOutput(image_features, text_features, self.logits(image_features, text_features))

    # --- new class names ----------------------------------------------------------------------------------------------

    @classmethod
    def refuses_new_classes(cls, config: MethodConfig) -> str | None:
        """Say why this method, so configured, cannot classify among other names; None where it can."""
        if cls.supports_new_classes:
            return None
        return f"method {cls.name!r} learns one thing for each class of its training set"

    def new_classes_refusal(self) -> str | None:
        """Say why this method, as configured, cannot classify among other names; None where it can."""
        return self.refuses_new_classes(self.config)

    def with_classes(self, classes: Sequence[ClassPrompt]) -> Self:
        """Return a method with the same learned parameters (shared, not copied) and other class names.

        Raises:
            IncompatibleError: What was learned belongs to the classes it was learned with.
        """
        refusal = self.new_classes_refusal()
        if refusal:
            raise IncompatibleError(
                f"This classifier cannot take other class names: {refusal}. Predict without `labels`, or with names "
                "out of its own, or tune with a method that shares its context between classes."
            )
        other = type(self)(self.config, self.backbone, classes, generator=torch.Generator().manual_seed(0))
        other.share_learned(self)
        other.chunk = self.chunk
        return other

    def share_learned(self, source: Method) -> None:
        """Use the very parameters and persistent buffers of `source`."""
        persistent = source.state_dict().keys()
        for name, parameter in source.named_parameters():
            owner, leaf = self._owner(name)
            owner._parameters[leaf] = parameter  # noqa: SLF001
        for name, buffer in source.named_buffers():
            if name in persistent:
                owner, leaf = self._owner(name)
                owner._buffers[leaf] = buffer  # noqa: SLF001

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        path, _, leaf = name.rpartition(".")
        return self.get_submodule(path), leaf

    # --- going on from a model ----------------------------------------------------------------------------------------

    def start_from(self, parent: Method) -> None:
        """Take over what a model of the same method and settings learned, whose classes are the first of these.

        What is learned for each class keeps the parent's rows; rows of new classes stay as in a fresh tuning.

        Raises:
            IncompatibleError: The parent's tensors do not fit.
        """
        theirs = parent.state_dict()
        if parent.name == self.name:
            self.make_room({name: value.shape for name, value in theirs.items()})
        ours = self.state_dict()
        sizes = (parent.num_classes, self.num_classes)
        started = {name: _over(theirs[name], value, sizes) for name, value in ours.items() if name in theirs}
        if parent.name != self.name or theirs.keys() != ours.keys() or any(one is None for one in started.values()):
            raise IncompatibleError(
                f"The parent was tuned with method {parent.name!r} and its parameters do not fit method {self.name!r} "
                "as configured; use the parent's method and method_config."
            )
        self.load_state_dict(started)

    # --- hooks of the one trainer; each has a neutral default ---------------------------------------------------------

    def classification_loss(self, output: MethodOutput, labels: Tensor) -> Tensor:
        """Return the scalar classification loss; plain cross-entropy unless a method says otherwise."""
        return F.cross_entropy(output.logits.float(), labels)

    def named_losses(self, batch: ImageBatch, output: MethodOutput) -> Mapping[str, Tensor]:
        """Return further scalar losses by name, already weighted; they are added to the total."""
        return {}

    def combine_gradients(self, gradients: Mapping[str, Sequence[Tensor]]) -> Sequence[Tensor]:
        """Combine gradients that were taken for each loss apart; called only where a method overrides it.

        Args:
            gradients: For "task" (classification and regulariser) and each name of `named_losses`, one tensor for
                each trainable parameter in the order of `parameters()`.

        Returns:
            One gradient for each trainable parameter.
        """
        raise NotImplementedError

    def on_epoch_end(self, epoch: int, epochs: int) -> None:
        """Called after each epoch, 1 <= epoch <= epochs."""

    def fit(self, features: Tensor | None, labels: Tensor) -> None:
        """Learn in closed form, or look at the training set, before the first step.

        Args:
            features: (n, V, d) features of all training views; None where the method takes pixels alone.
            labels: (n,) class indices.
        """

    def on_tuning_end(self, features: Tensor | None, labels: Tensor) -> None:
        """Called once after the last step with what `fit` got."""

    def make_room(self, shapes: Mapping[str, torch.Size]) -> None:
        """Resize what is as large as the training set, before learned tensors of these shapes are loaded."""

    def learned_fault(self, name: str, value: Tensor) -> str | None:
        """Say why a learned tensor of the right shape and type cannot be one of this method's, or None."""
        return None

    def training_state(self) -> Mapping[str, Tensor]:
        """Return what a resumed tuning needs beyond `state_dict`; it is no part of the artefact."""
        return {}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `training_state` returned."""

    def fit_memory(self, budget: int, batch_size: int) -> None:
        """Choose how much is worked on at once, so that a step takes at most about `budget` bytes; a guess beforehand.

        Called before the first step. What does not fit after all is met by `halve_chunk`.

        Args:
            budget: Bytes.
            batch_size: Images of a step, B.
        """

    def picture_bytes(self) -> float:
        """Return what a step takes of memory for each picture; 0 where it is nothing beside the prompts."""
        return 0.0

    def halve_chunk(self) -> bool:
        """Work on fewer prompts at once after running out of memory; False when it is one already."""
        now = self.chunk if self.chunk is not None else sum(len(one.phrasings) for one in self.classes)
        if now <= 1:
            return False
        self.chunk = now // 2
        return True


def _over(old: Tensor, fresh: Tensor, num_classes: tuple[int, int]) -> Tensor | None:
    """Return an old tensor, with the fresh rows of classes that are new; None where the two do not fit."""
    if old.shape == fresh.shape:
        return old
    by_class = old.dim() and fresh.dim() and (len(old), len(fresh)) == num_classes
    if not by_class or old.shape[1:] != fresh.shape[1:]:
        return None
    return torch.cat([old.to(fresh.device), fresh[len(old) :]])


METHODS: Registry[Method] = Registry("npt_core.methods", "method")


def register(cls: type[Method]) -> type[Method]:
    """Class decorator: make a method known by its name.

    Raises:
        ConfigError: The name is taken, or a declaration is missing.
    """
    missing = [fact for fact in ("name", "title", "source", "Config") if not hasattr(cls, fact)]
    if missing:
        raise ConfigError(f"Method {cls.__qualname__} does not declare {', '.join(missing)}; every method must.")
    METHODS.add(cls.name, cls)
    return cls


@dataclass(frozen=True)
class MethodInfo:
    """What a user is told about a method."""

    name: str
    title: str
    source: str
    schema: dict[str, Any]
    image_input: str
    text_depends_on_image: bool
    image_depends_on_classes: bool
    has_text_features: bool
    moves_features: bool
    learns: bool
    supports_new_classes: bool
    defaults: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return dict(vars(self))


def describe(cls: type[Method]) -> MethodInfo:
    """Describe a method class."""
    recipe = cls.recipe
    return MethodInfo(
        name=cls.name,
        title=cls.title,
        source=cls.source,
        schema=cls.Config.json_schema(),
        image_input=cls.image_input.value,
        text_depends_on_image=cls.text_depends_on_image,
        image_depends_on_classes=cls.image_depends_on_classes,
        has_text_features=cls.has_text_features,
        moves_features=cls.moves_features,
        learns=cls.learns,
        supports_new_classes=cls.supports_new_classes,
        defaults={
            "lr": recipe.lr,
            "batch_size": recipe.batch_size,
            "epochs_by_shots": [list(pair) for pair in recipe.epochs_by_shots],
            "regularizer": "npt" if cls.moves_features else "none",
        },
    )
