"""The modules of one painting node: UNet, ControlNets, autoencoder and text, of one dtype, on one device, proven to fit each other.

A new family or adapter enters here: it adds modules to `Models` and what they need to `Loop`; the frame's course in stream.py stays.
It knows how modules fit, not when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import MissingError, UsageError
from operators.diffusion.steps.schedule import FROM_CLASS, Noise, Sampler
from operators.diffusion.weights import checkpoint, coder
from operators.diffusion.weights.checkpoint import Folder
from operators.diffusion.weights.coder import Coder
from operators.diffusion.weights.families import FAMILIES, PLAIN, Family, Recipe, architecture, family_of, recipe_of
from operators.diffusion.weights.single import Single, controlnet
from operators.diffusion.words.tower import TextTower

if TYPE_CHECKING:
    import torch


class Net:
    """One ControlNet: its module with the embedding of the condition taken out, so that it runs once per picture instead of once a step."""

    def __init__(self, module: Any, scale: float, start: float = 0.0, end: float = 1.0) -> None:
        import torch

        self.scale, self.start, self.end = scale, start, end
        self.embedding = module.controlnet_cond_embedding
        self.flip = module.config.get("controlnet_conditioning_channel_order", "rgb") == "bgr"
        # With this the module adds what it is given as condition as it is: the embedding, which has no colour order.
        module.controlnet_cond_embedding = torch.nn.Identity()
        module.register_to_config(controlnet_conditioning_channel_order="rgb")
        self.module = module

    def sharing(self, scale: float, start: float, end: float) -> Net:
        """Another use of the same module."""
        twin = Net.__new__(Net)
        twin.scale, twin.start, twin.end = scale, start, end
        twin.embedding, twin.flip, twin.module = self.embedding, self.flip, self.module
        return twin

    def embed(self, picture: torch.Tensor) -> torch.Tensor:
        """The embedding of a condition (1, 3, H, W) in 0..1."""
        return self.embedding(picture.flip(1) if self.flip else picture)

    def active(self, step: int, steps: int) -> bool:
        """Whether it takes part in executed step `step` of `steps`: as diffusers counts."""
        return not (step / steps < self.start or (step + 1) / steps > self.end)


@dataclass(eq=False)
class Models:
    """What a painting node computes with. `grain`: working sizes are multiples of it. `native`: pixels of the short side it was trained at.

    `towers`: the text encoders, in the order their encodings are joined. `empty_is_zero`: an empty negative prompt is nothing at all.
    """

    unet: Any
    coder: Coder
    towers: list[TextTower]
    noise: Noise
    sampler: Sampler
    device: torch.device
    dtype: torch.dtype
    nets: list[Net] = field(default_factory=list)
    family: Family = FAMILIES["sd15"]
    recipe: Recipe = PLAIN
    empty_is_zero: bool = False
    resting: dict[int, Any] = field(default_factory=dict)  # modules that are on the device only while they work, by id
    planned: dict[int, Any] = field(default_factory=dict)  # those of them that the memory plan keeps away, relieved or not
    asleep: dict[int, Any] = field(default_factory=dict)  # modules that nobody has needed yet, and that are not on the device before
    streamed: set[int] = field(default_factory=set)  # modules whose weights stay on the host, and come layer by layer
    staged: dict[int, Any] = field(default_factory=dict)  # modules whose weights are in memory only while they work
    files: dict[int, Callable[[torch.dtype], Any]] = field(default_factory=dict)  # how the text encoders are read again
    returning: bool = False  # what was relieved is to come back

    def __post_init__(self) -> None:
        self.fold = self.coder.fold
        self.grain = self.fold * 2 ** (len(self.unet.config.block_out_channels) - 1)
        self.channels = int(self.unet.config.in_channels)
        self.native = int(self.unet.config.sample_size or 64) * self.fold

    @property
    def text_width(self) -> int:
        """Width of the encoding that the UNet hears."""
        return sum(tower.width for tower in self.towers)

    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        """See Coder.encode."""
        if self.asleep:  # the half of the autoencoder that nobody asked for until now
            for module in self.asleep.values():
                if id(module) not in self.resting:
                    module.to(self.device)
            self.asleep = {}
        with self.use(*self.coder.encoding):
            return self.coder.encode(picture)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """See Coder.decode."""
        with self.use(*self.coder.decoding):
            return self.coder.decode(latent)

    def cast(self, dtype: torch.dtype) -> None:
        """Compute in `dtype` from now on."""
        import torch

        if dtype is self.dtype:
            return
        for module in (self.unet, *self._texts(), *self._parts_of_nets()):
            torch.nn.Module.to(module, dtype)
        self.coder.cast(dtype)
        self.dtype = dtype

    # ---- memory

    def _parts_of_nets(self) -> list[Any]:
        return list({id(module): module for net in self.nets for module in (net.module, net.embedding)}.values())

    def _texts(self) -> list[Any]:
        return [tower.module for tower in self.towers]

    def _guests(self) -> list[Any]:
        """What can be moved off the device as a whole."""
        every = [*self._texts(), *self.coder.decoding, *self.coder.encoding, *self._parts_of_nets()]
        return [module for module in every if id(module) not in self.streamed]

    def parts(self) -> dict[str, list[Any]]:
        """Modules by the names that the memory plan knows them by (operators.diffusion.weights.placement)."""
        nets: dict[str, list[Any]] = {}
        for n, net in enumerate(self.nets):
            if not any(net.module is modules[0] for modules in nets.values()):  # one that is used twice is one part
                nets[f"controlnet {n + 1}"] = [net.module, net.embedding]
        return {"unet": [self.unet], "text": self._texts(), "vae": self.coder.decoding, "vae encoder": self.coder.encoding, **nets}

    def place(self, placed: Mapping[str, str], *, backend: str = "", bits: int = 8) -> None:
        """Bring every part onto the device, or to where and into the form in which `placed` says it is kept (see placement.py); parts that it
        does not name stay on the device. Adapters have been put in before; `backend` quantises. Once, when a node is opened."""
        from operators.diffusion.weights.ferry import Ferry
        from operators.diffusion.weights.stored import store8, store_on_host
        from operators.models.quantise import quantise
        from operators.models.sizes import KEPT

        ferry: Ferry | None = None
        for part, modules in self.parts().items():
            how = placed.get(part, "resident")
            for module in modules:
                if how.startswith("fp8"):
                    store8(module)
                if how in ("int8", "int4") and (part == "text" or module is modules[0]):
                    quantise(module, backend, bits, KEPT.search)
                elif how.endswith("group") and module is modules[0]:
                    ferry = ferry or Ferry(self.device)
                    store_on_host(module, self.device, ferry)
                    self.streamed.add(id(module))
                elif how == "staged":
                    self.staged[id(module)] = module
                    _empty(module)
            if how.endswith("offload") or how == "staged":
                self.planned.update({id(module): module for module in modules})
        self.asleep = {id(module): module for module in self.coder.encoding if id(module) not in self.planned}
        self.resting = dict(self.planned)
        for module in (self.unet, *self._guests()):
            if id(module) not in {**self.resting, **self.asleep} and id(module) not in self.streamed:
                module.to(self.device)

    @property
    def relieved(self) -> bool:
        """Whether everything but the UNet is kept off the device."""
        return all(id(module) in self.resting for module in self._guests())

    def relieve(self) -> bool:
        """Keep everything but the UNet off the device except while it works; False where that is so already."""
        came_back, self.returning = self.returning, False  # or was about to, and there was no room
        if self.relieved:
            return came_back
        self._rest({id(module): module for module in self._guests()})
        return True

    def restore(self) -> None:
        """Undo `relieve` when the next frame begins: modules move between frames only. What was planned to be away stays away."""
        self.returning = True

    def follow(self) -> None:
        """Between two frames: do what was asked meanwhile."""
        if self.returning:
            self._rest(self.planned)
            self.returning = False

    def _rest(self, away: dict[int, Any]) -> None:
        import torch

        before, self.resting = self.resting, {id(module): module for module in self._guests()}  # should memory run out on the way, all are away
        for module in self._guests():
            if (id(module) in away) != (id(module) in before) and id(module) not in self.asleep and id(module) not in self.staged:
                module.to("cpu" if id(module) in away else self.device)
        self.resting = dict(away)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def use(self, *modules: Any) -> Iterator[None]:
        """`modules` are on the device inside; outside too, unless they rest elsewhere."""
        moved = [module for module in modules if id(module) in self.resting] if self.resting else []
        try:
            for module in moved:
                if id(module) in self.staged:
                    self._load(module)
                module.to(self.device)
            yield
        finally:
            for module in moved:
                if id(module) in self.staged:
                    _empty(module)
                else:
                    module.to("cpu")

    def _load(self, module: Any) -> None:
        """Read the weights of a staged module from its files again."""
        fresh = self.files[id(module)](self.dtype)
        module.load_state_dict(fresh.state_dict(), assign=True)


def _empty(module: Any) -> None:
    """Let go of the weights of a module: what is left has shapes and no memory."""
    import torch

    for inner in module.modules():
        for name, parameter in inner._parameters.items():
            if parameter is not None:
                inner._parameters[name] = torch.nn.Parameter(parameter.detach().to("meta"), requires_grad=False)


def load(
    model: str, nets: Sequence[Any], vae: str | None, *, device: torch.device, dtype: torch.dtype, base: str | None = None,
    family: str = "auto", loras: Sequence[Mapping[str, Any]] = (), prediction: str = "auto",
) -> Models:  # fmt: skip
    """The modules of `model` with its ControlNets and, where given, another autoencoder. Raises MissingError or UsageError.

    `base`: the diffusers folder that a checkpoint in one file takes configurations and tokenizers from. `family`, `loras` and `prediction`
    decide about the recipe (see families.py); the LoRAs are not put in here.
    """
    path = checkpoint.locate(model)
    source: Folder | Single = Single(path, model, base=base) if path.is_file() else Folder(path, model)
    parts = [(checkpoint.locate(net["model"]), net["model"]) for net in nets]
    root = checkpoint.locate_folder(base) if base and path.is_file() else None
    return _assemble(source, parts, nets, coder.place(vae or model), device, dtype, root, family, loras, prediction)


def embedded_folder() -> Path:
    """Where the small model lies that ships with the package. Raises MissingError where it does not."""
    from operators.embedded import root

    folder = Path(root())
    if not (folder / "unet").is_dir():
        raise MissingError(f"the embedded model is not in {folder}", fix="install the package again: its weights belong to it")
    return folder


def load_embedded(nets: Sequence[Any], *, device: torch.device, dtype: torch.dtype) -> Models:
    """The small model that ships with the package, its ControlNet standing in for each of `nets`."""
    folder = embedded_folder()
    parts = [(folder / "controlnet", "embedded")] * len(nets)
    return _assemble(Folder(folder, "embedded"), parts, nets, (folder / "vae", "embedded"), device, dtype)


def _assemble(
    source: Folder | Single, parts: list[tuple[Path, str]], nets: Sequence[Any], vae: tuple[Path, str], device: torch.device,
    dtype: torch.dtype, root: Path | None = None, wanted: str = "auto", loras: Sequence[Mapping[str, Any]] = (), prediction: str = "auto",
) -> Models:  # fmt: skip
    import torch

    model, settings, scheduler = source.name, source.unet_config(), source.scheduler_config()
    # What cannot work together is told before gigabytes are read.
    family = family_of(model, settings, scheduler, wanted)
    recipe = recipe_of(family, architecture(settings), loras)
    noise = Noise.read(scheduler)
    told = {"v": "v_prediction"}.get(prediction, prediction) if prediction != "auto" else recipe.prediction
    noise = replace(noise, prediction=told or noise.prediction, spacing=recipe.spacing or noise.spacing)
    unet = source.unet(dtype)
    towers = []
    for n in range(source.towers()):
        tokens, pad = source.tokenizer(n)
        towers.append(TextTower(source.text(n, dtype), tokens, late=source.towers() > 1, pad=pad))
    pixels = coder.load(*vae, dtype, base=root if vae[0].is_file() else None)
    _fits(model, unet, towers, pixels.channels, vae[1])
    loaded: dict[Path, Net] = {}
    used: list[Net] = []
    for (path, name), net in zip(parts, nets, strict=True):
        wish = (float(net.get("scale", 1.0)), float(net.get("start", 0.0)), float(net.get("end", 1.0)))
        if path in loaded:
            used.append(loaded[path].sharing(*wish))
            continue
        body = controlnet(path, name, unet, dtype) if path.is_file() else checkpoint.module("ControlNetModel", path, name, dtype)
        _net_fits(model, unet, name, body)
        loaded[path] = Net(body, *wish)
        used.append(loaded[path])
    sampler = recipe.sampler or FROM_CLASS.get(str(scheduler.get("_class_name")), "dpm++")
    zero = len(towers) > 1 and bool(source.index().get("force_zeros_for_empty_prompt", True))
    models = Models(unet, pixels, towers, noise, sampler, device, dtype, used, family, recipe, zero)  # type: ignore[arg-type]
    models.files = {id(tower.module): partial(source.text, n) for n, tower in enumerate(towers)}
    for each in (unet, pixels.module, *models._parts_of_nets()):
        # Convolutions run two to five times faster on the CPU, and on tensor cores, with channels innermost.
        each.to(memory_format=torch.channels_last)
    return models


def _fits(model: str, unet: Any, towers: Sequence[TextTower], given: int, vae: str) -> None:
    width, need = sum(tower.width for tower in towers), unet.config.cross_attention_dim
    if width != need:
        raise UsageError(f"model {model}: the UNet expects text of width {need}, found a text encoder of width {width}")
    channels = int(unet.config.in_channels)
    if channels != given:
        raise UsageError(f"model {model}: the UNet expects latents of {channels} channels, found {given} in the autoencoder {vae}")


def _net_fits(model: str, unet: Any, name: str, net: Any) -> None:
    for key in ("cross_attention_dim", "block_out_channels", "layers_per_block", "in_channels", "addition_embed_type"):
        want, found = getattr(unet.config, key), getattr(net.config, key)
        if tuple(want) != tuple(found) if isinstance(want, list | tuple) else want != found:
            raise UsageError(
                f"controlnet {name} does not fit model {model}: {key}: expected {want}, found {found}",
                fix="take a ControlNet made for this family of models",
            )
