"""The source statistics as a command (`python -m adapt.statistics`); what it does is in adapt/source/statistics.py."""

from adapt import command

if __name__ == "__main__":
    command.begin("adapt.statistics")  # before what takes time to import
    command.be_passive()  # before torch is imported

from adapt.source.statistics import options_for, run

if __name__ == "__main__":
    command.main(options_for, run, prog="adapt.statistics")
