"""Data for config files: sources of episodes, and sets to evaluate on.

The ``weight`` of a source is per **sample**, not per data set; its ``classes`` are the labels to use, empty for all.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def voc_source(root: str, split: str, weight: float = 1.0, classes: tuple[int, ...] = ()) -> ConfigDict:
    """Episodes from a folder in VOC's layout (data/README.md); ``split`` is a file in ``ImageSets/Segmentation``."""
    return ConfigDict({"kind": "voc", "root": root, "split": split, "weight": weight, "classes": classes})


def record_source(root: str, split: str, weight: float = 1.0, classes: tuple[int, ...] = ()) -> ConfigDict:
    """Episodes from the records of ``data/build.py``, of which ``root`` is ``OUT/NAME``."""
    return ConfigDict({"kind": "records", "root": root, "split": split, "weight": weight, "classes": classes})


def folder_source(
    root: str, split: str, weight: float = 1.0, skip_bad: bool = False, classes: str = "", others: bool = False
) -> ConfigDict:
    """Episodes from a folder of images and masks in either layout; see docs/finetune.md.

    Arguments are those of :class:`~ldis_jax.input_pipeline.ImageFolder`: ``split`` is "train", or "val" for queries
    among the held-out images; ``classes`` are names or labels with commas between, and ``others`` all but those.
    """
    entry = {"kind": "folder", "root": root, "split": split, "weight": weight, "skip_bad": skip_bad}
    return ConfigDict(entry | {"classes": classes, "others": others})


def procedural_source(split: str, weight: float = 1.0) -> ConfigDict:
    """Endless painted scenes, at ``task.image_size``; ``split`` is "train" or "unseen"."""
    return ConfigDict({"kind": "procedural", "split": split, "weight": weight})


def eval_set(
    source: ConfigDict,
    *,
    episodes: int = 0,
    manifest: str = "",
    protocol: str = "ldis",
    num_shots: int = 1,
    seed: int = 0,
    absent: float = 0.0,
) -> ConfigDict:
    """Frozen episodes: of a manifest file, or the first ``episodes`` draws of (seed, index).

    In a share ``absent`` of the draws, the query does not show what is prompted.
    """
    entry = {"source": source, "episodes": episodes, "manifest": manifest, "protocol": protocol, "num_shots": num_shots}
    return ConfigDict(entry | {"seed": seed, "absent": absent})


def folder_data(config: ConfigDict, episodes: int) -> None:
    """Your own images, of the folder ``config.data.folder``, and evaluation on those of them held out; in place.

    Of few images there are fewer episodes. One training image in five is not trained on, but chooses when to stop.
    """
    config.data.folder = ""
    config.data.skip_bad = False  # leave out files that cannot be used, instead of stopping
    config.data.classes = ""  # to train on, by name or label, with commas between; empty for all
    config.data.tile = 0.0  # of the task; 0 chooses it by how wide the objects are in the masks
    shared = {key: config.data.get_ref(key) for key in ("skip_bad", "classes")}  # they follow the command line
    folder = config.data.get_ref("folder")
    config.data.sources.images = folder_source(folder, "fit", **shared)
    config.eval.sets = {
        "held_out": eval_set(folder_source(folder, "val", **shared), episodes=episodes),
        "choosing": eval_set(folder_source(folder, "choose", **shared), episodes=8),
        "trained_on": eval_set(folder_source(folder, "fit", **shared), episodes=8),
        "other_classes": eval_set(folder_source(folder, "val", others=True, **shared), episodes=episodes),
    }
    config.eval.choose_by = "choosing"
    config.eval.main_set = "held_out"
    config.eval.before = True


def paper_data(config: ConfigDict, records: str = "data/records") -> None:
    """The paper's four data sets with its weights, and evaluation on PASCAL and COCO; in place.

    ``records`` is ``--out`` of ``data/build.py``.
    """
    for name, weight in {"pascal": 0.4, "coco20i": 0.1, "davis16": 0.5, "vspw": 0.2}.items():
        split = "train_aug" if name == "pascal" else "train"  # VOC 2012 with SBD's masks: 10,582 images, not 1,464
        config.data.sources[name] = record_source(f"{records}/{name}", split, weight)
    for name in ("pascal", "coco20i"):
        config.eval.sets[name] = eval_set(record_source(f"{records}/{name}", "val"), episodes=1000)
    config.eval.main_set = "coco20i"
