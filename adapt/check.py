"""Will sound help on a data set?  As a command, `python -m adapt.check`; what it does is in adapt/stream/checked.py."""

from adapt import command

if __name__ == "__main__":
    command.begin("adapt.check")  # before what takes time to import
    command.be_passive()  # before torch is imported

from adapt.stream.checked import Options, run

if __name__ == "__main__":
    command.keep_freed_memory()
    command.main(Options, run, prog="adapt.check")
