from adapt.wrapper import Sound as Sound
from adapt.wrapper import Wrapped as Wrapped
from adapt.wrapper import source_statistics as source_statistics
from adapt.wrapper import wrap as wrap
