"""The result table as a command (`python -m adapt.report`)."""

from adapt import command

if __name__ == "__main__":
    command.begin("adapt.report")  # before what takes time to import

from adapt.report.table import Options, run

if __name__ == "__main__":
    command.main(Options, run, prog="adapt.report")
