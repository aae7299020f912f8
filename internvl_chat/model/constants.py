"""Sentinels and special tokens of the InternVL format: their only definitions.

They live in `model/` because this folder travels with every checkpoint and has to stand alone.
"""

IGNORE_INDEX = -100  # a label that no loss sees

IMAGE_PLACEHOLDER = "<image>"  # in questions: one per image
VIDEO_PLACEHOLDER = "<video>"  # in questions: where the frames go
IMG_START_TOKEN = "<img>"
IMG_CONTEXT_TOKEN = "<IMG_CONTEXT>"  # stands once for every image token of a tile
IMG_END_TOKEN = "</img>"
QUAD_START_TOKEN = "<quad>"
QUAD_END_TOKEN = "</quad>"
REF_START_TOKEN = "<ref>"
REF_END_TOKEN = "</ref>"
BOX_START_TOKEN = "<box>"
BOX_END_TOKEN = "</box>"

# Channel mean and standard deviation (RGB, pixel values in 0..1) by name of the normalisation.
NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.4814546, 0.4578275, 0.40821073), (0.2686295, 0.2613025, 0.2757711)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
IMAGENET_MEAN, IMAGENET_STD = NORMALIZATIONS["imagenet"]
