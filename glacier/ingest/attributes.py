"""What the attributes of outlines mean, told by `--classes` before anything is read from a scene."""

from collections.abc import Sequence
from dataclasses import replace

from glacier.classes import ClassMap
from glacier.errors import GlacierError, UsageError
from glacier.scenes.scene import Outline, Scene, VectorLabel


def name_attributes(scenes: Sequence[Scene], classes: str) -> list[Scene]:
    """The same scenes, whose outlines know the source value of each attribute.

    Args:
        scenes: as `find_scenes` yields them.
        classes: `--classes`.

    Raises:
        GlacierError: polygons with an attribute that `classes` does not name, or a file that cannot be
            read.
        UsageError: no classes although attributes are asked for, or words among them although not.
    """
    labels = {scene.label for scene in scenes if isinstance(scene.label, VectorLabel)}
    layers = sorted({layer for label in labels for layer in label.layers if layer.attribute}, key=str)
    class_map = ClassMap.parse(classes) if classes else None
    words = [key for key, value in class_map.value_of.items() if key != str(value)] if class_map else []
    if words and not layers:
        raise UsageError(
            f"--classes: {words[0]!r} is no number; words are for the attributes of outlines, named by "
            "--attribute"
        )
    named = {layer: _named(layer, class_map) for layer in layers}
    return [_with(scene, named) for scene in scenes]


def _with(scene: Scene, named: dict[Outline, Outline]) -> Scene:
    if not isinstance(scene.label, VectorLabel):
        return scene
    layers = tuple(named.get(layer, layer) for layer in scene.label.layers)
    return replace(scene, label=VectorLabel(layers))


def _named(layer: Outline, class_map: ClassMap | None) -> Outline:
    """A layer that knows its meanings; what is to be ignored is burnt last."""
    from glacier.scenes.outlines import attributes

    found = sorted(attributes(layer))
    if class_map is None:
        raise UsageError(
            f"{layer.path}: {layer.attribute} holds {_shown(found)}; say what they mean with --classes, "
            f"e.g. --classes 0=background,{found[0]}=glacier"
        )
    if strange := sorted(set(found) - set(class_map.value_of)):
        raise GlacierError(
            f"{layer.path}: {layer.attribute} holds {_shown(strange)} without a class; expected "
            f"{_shown(list(class_map.value_of))}; give every value one with --classes (VALUE=ignore "
            "drops it)"
        )
    pairs = sorted(class_map.value_of.items(), key=lambda pair: class_map.index_of[pair[1]])
    return replace(layer, meanings=tuple(pair for pair in pairs if pair[0] in found))


def _shown(values: Sequence[str]) -> str:
    return ", ".join(values[:12]) + (", …" if len(values) > 12 else "")
