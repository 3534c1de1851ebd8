"""Videos to frames: reading files, views, corruptions.  Importing the room loads nothing."""
