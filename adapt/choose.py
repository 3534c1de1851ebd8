"""Settings by run as a command (`python -m adapt.choose`); what it does is in adapt/stream/chosen.py."""

from adapt import command

if __name__ == "__main__":
    command.begin("adapt.choose")  # before what takes time to import

from adapt.stream.chosen import options_for, run

if __name__ == "__main__":
    command.main(options_for, run, prog="adapt.choose")
