"""A contact sheet of all corruptions as a command (`python -m adapt.corruptions`); what it does is in
adapt/video/corruptions.
"""

from adapt import command

if __name__ == "__main__":
    command.begin("adapt.corruptions")  # before what takes time to import
    command.be_passive()  # before torch is imported

from adapt.video.corruptions.sheet import Options, run

if __name__ == "__main__":
    command.main(Options, run, prog="adapt.corruptions")
