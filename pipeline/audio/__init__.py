"""Sound out of media files: one track, by ffmpeg, as mono blocks; sound made worse for studies; a player of notes."""
