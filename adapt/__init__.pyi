from adapt.networks import hugging_face as hugging_face
from adapt.networks import timm_images as timm_images
from adapt.networks import torchvision_video as torchvision_video
from adapt.wrapper import Sound as Sound
from adapt.wrapper import Wrapped as Wrapped
from adapt.wrapper import source_statistics as source_statistics
from adapt.wrapper import wrap as wrap
