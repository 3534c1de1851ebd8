"""The adapter's stage as a command (`python -m adapt`); what it does is in adapt/stream/streaming.py."""

from adapt import command

if __name__ == "__main__":
    command.begin("adapt")  # before what takes time to import
    command.be_passive()  # before torch is imported

from adapt.stream.streaming import main

if __name__ == "__main__":
    command.keep_freed_memory()
    main()
