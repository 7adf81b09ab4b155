"""COCO-Stuff 164k: 80 things and 91 stuff classes."""

from __future__ import annotations

from stagekit.data.classes import Classes
from stagekit.data.layouts.labels import Numbered
from stagekit.data.layouts.layout import Layout, Place
from stagekit.data.palette import IGNORE, default_palette

_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush, banner, blanket, branch, bridge, building-other, bush, cabinet,
cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain,
desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower,
fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal,
mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform,
playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper,
snow, solid-other, stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable,
wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops,
window-blind, window-other, wood
"""

# COCO numbers 91 kinds of things, of which 11 are in no annotation (counted from 0, as the pixel maps do).
_UNUSED = frozenset({11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90})
_USED = tuple(value for value in range(182) if value not in _UNUSED)

CLASSES = Classes(
    names=tuple(" ".join(name.split()) for name in _NAMES.split(",")),
    # Ours: MMSegmentation's gives several classes one colour.
    palette=default_palette(len(_USED)),
    source="COCO-Stuff 164k: Caesar et al., CVPR 2018, arXiv 1612.03716; images of COCO 2017",
    license="Annotations: CC BY 4.0. Images: Flickr's terms of use, each under its own licence",
)

_PLACES = (
    Place("images/train2017", "annotations/train2017", "train"),
    Place("images/val2017", "annotations/val2017", "val"),
)
_PUBLISHED = {"train": 118287, "val": 5000}

LAYOUTS = (
    Layout(
        title="as MMSegmentation converts it",
        places=_PLACES,
        image=("{stem}.jpg",),
        mask=("{stem}_labelTrainIds.png",),
        labels=Numbered(
            {**{label: label for label in range(len(_USED))}, IGNORE: IGNORE},
            "labelTrainIds run from 0 to 170; convert the published pixel maps, or remove the converted ones",
        ),
        classes=CLASSES,
        stem=r"\d+",
        published=_PUBLISHED,
    ),
    Layout(
        title="stuffthingmaps_trainval2017 as published",
        places=_PLACES,
        image=("{stem}.jpg",),
        mask=("{stem}.png",),
        labels=Numbered(
            {**{value: label for label, value in enumerate(_USED)}, IGNORE: IGNORE},
            "take stuffthingmaps_trainval2017.zip, not the stuff-only maps",
        ),
        classes=CLASSES,
        stem=r"\d+",
        published=_PUBLISHED,
    ),
)
