"""Finished runs into a small folder for git as a command (`python -m adapt.archive`); what it does is in
adapt/report/archive.py.
"""

from adapt import command

if __name__ == "__main__":
    command.begin("adapt.archive")  # before what takes time to import

from adapt.report.archive import Options, run

if __name__ == "__main__":
    command.main(Options, run, prog="adapt.archive")
