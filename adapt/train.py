"""Training a source model as a command (`python -m adapt.train`); what it does is in adapt/source/train.py."""

from adapt import command

if __name__ == "__main__":
    command.begin("adapt.train")  # before what takes time to import
    command.be_passive()  # before torch is imported

from adapt.source.train import Options, run

if __name__ == "__main__":
    command.keep_freed_memory()
    command.main(Options, run, prog="adapt.train")
