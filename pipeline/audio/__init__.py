"""Sound out of media files: which track, by ffmpeg, as mono blocks; how it is made worse for studies; the player of a soundfont."""
